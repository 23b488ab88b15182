"""Stored pages as a folder in which people correct the texts, and which ``prepare`` then reads as scans."""

from collections.abc import Sequence
from pathlib import Path

from components.serve.samples.store import SampleStore
from components.serve.samples.stored_reading import SampleKey
from components.shared.artifacts.output_folder import finished_folder

DRAFT, CORRECTED = ".draft.txt", ".gt.txt"
_PREFERRED = ("champion", "answer", "challenger")


def write_drafts(store: SampleStore, keys: Sequence[SampleKey], folder: Path, who: str) -> int:
    """Write each page's picture once, and beside it what a version read, as a draft; return how many pages.

    ``prepare`` takes no draft for a label: a page counts when somebody has renamed its draft from ``.draft.txt`` to
    ``.gt.txt``. Readings that answer an instruction of the client are left out.

    Raises:
        UserError: the folder is not empty, or a stored file is not a reading.
        OSError: the store or the audit file fails.
    """
    by_picture: dict[str, list[SampleKey]] = {}
    for key in keys:
        by_picture.setdefault(key.picture, []).append(key)
    written = 0
    with finished_folder(folder) as partial:
        partial.chmod(0o700)  # as the store's: these are clients' pages
        for sha256, found in by_picture.items():
            found.sort(key=lambda key: (_PREFERRED.index(key.role), -key.stored_at.timestamp()))
            readings = (store.reading(key, who) for key in found)
            reading = next((one for one in readings if one is not None and not one.own_instruction), None)
            picture = store.picture(found[0], who) if reading is not None else None
            if reading is None or picture is None:
                continue
            (partial / f"{sha256}.png").write_bytes(picture)
            (partial / f"{sha256}{DRAFT}").write_text(reading.text, encoding="utf-8")
            written += 1
    return written
