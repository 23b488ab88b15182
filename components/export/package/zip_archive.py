"""A reproducible zip: its bytes depend only on its files (sorted names, fixed dates and modes)."""

import shutil
import zipfile
from pathlib import Path

_EARLIEST_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
# Already compressed, or weights, which hardly compress: deflating them costs time and saves little.
_STORED = {".safetensors", ".webp", ".png"}


def write_zip(folder: Path, target: Path) -> None:
    """Write all files below ``folder`` to ``target`` under one top folder named like ``folder``."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            entry = zipfile.ZipInfo(name, date_time=_EARLIEST_DATE)
            entry.external_attr = _MODE
            entry.create_system = 3  # Unix, regardless of the system that writes it
            entry.compress_type = zipfile.ZIP_STORED if path.suffix in _STORED else zipfile.ZIP_DEFLATED
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
