"""The properties of a page by which the figures are broken down: from metadata, the document's name and the label."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from components.shared.artifacts.evaluation_report import Trait
from components.shared.scoring.text_scripts import script_of

_OF_METADATA: tuple[Trait, ...] = ("lang", "task", "font", "resolution")
_ROW_OF_A_FILE = re.compile(r"(?P<file>.+?\.[A-Za-z0-9.]{2,12}):.+", re.DOTALL)  # such as rows.jsonl:17
SINGLE_FILES = "single files"
TOP_FOLDER = "(top folder)"


def traits_of(metadata: Mapping[str, Any], label: str) -> dict[Trait, str]:
    """Return the traits of a page; those of the metadata are left out if they are missing there.

    ``source`` is the file that has the document among others (JSON Lines, tar, table); ``folder`` is the folder of
    the document or of that file.

    >>> traits_of({"source_id": "letters/rows.jsonl:17", "lang": "el"}, "Η γλώσσα, 1")
    {'lang': 'el', 'source': 'letters/rows.jsonl', 'folder': 'letters', 'script': 'Greek'}
    """
    found = {name: str(metadata[name]) for name in _OF_METADATA if metadata.get(name) is not None}
    source_id = str(metadata["source_id"])
    of_a_file = _ROW_OF_A_FILE.fullmatch(source_id)
    file = of_a_file["file"] if of_a_file else source_id
    folder = PurePosixPath(file).parent.as_posix()
    return found | {
        "source": file if of_a_file else SINGLE_FILES,
        "folder": TOP_FOLDER if folder == "." else folder,
        "script": script_of(label),
    }
