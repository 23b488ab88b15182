"""Where a base model lies: a folder, the hub, or the one bundled here; light, so that it can be asked early."""

from pathlib import Path

from components.shared.errors import UserError

TINY_BASE = "tiny-base"
TINY_BASE_FOLDER = Path(__file__).parent / "tiny_base"


def base_model_location(base_model: str) -> str:
    """Return the folder or hub id of ``base_model``; ``tiny-base`` is the model bundled with this package.

    Raises:
        UserError: ``base_model`` looks like a path (it is absolute or starts with a dot) and is no folder.
    """
    if base_model == TINY_BASE:
        return str(TINY_BASE_FOLDER)
    path = Path(base_model).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or base_model.startswith((".", "~")) or base_model.count("/") != 1:
        raise UserError(
            "no such model folder",
            where=f"base_model {base_model!r}",
            mend=f"give a folder, a hub id such as deepseek-community/DeepSeek-OCR-2, or {TINY_BASE!r}",
        )
    return base_model
