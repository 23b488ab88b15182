"""The whole table: groups of hostile inputs, each with what reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.hostile import packages, pages, tables, texts
from tests.hostile.hostile_input import HostileInput


@dataclass(frozen=True)
class Group:
    """Inputs that one reader gets; ``reader`` is its module."""

    reader: str
    inputs: Sequence[HostileInput]


GROUPS = [
    Group("components/prepare/sources/opening.py", [*tables.INPUTS, *pages.PDFS, *texts.FILE_NAMES]),
    Group("components/prepare/sources/pages/scan_text.py", pages.SCANS),
    Group("components/prepare/rendering/page_pictures.py", pages.PICTURES),
    Group("components/shared/artifacts/package_files.py", packages.PACKAGES),
    Group("components/shared/programs/step_config.py", texts.SETTINGS),
    Group("components/shared/errors.py", [*texts.ADDRESSES, *texts.TERMINAL_TEXTS]),
    Group("components/shared/artifacts/markdown.py", texts.PAGE_TEXTS),
]
