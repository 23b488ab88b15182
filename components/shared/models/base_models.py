"""Where a base model is: a folder, the hub, or the bundled one. Imports little, so it is cheap to call early."""

from pathlib import Path

from components.shared.errors import UserError

TINY_BASE = "tiny-base"
TINY_BASE_FOLDER = Path(__file__).parents[1] / "tiny_base"


def base_model_location(base_model: str) -> str:
    """Return the folder or hub id of ``base_model``; ``tiny-base`` is the model bundled with this package.

    Raises:
        UserError: ``base_model`` is neither a folder nor a hub id.
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


def check_base_model_can_be_had(base_model: str, revision: str | None) -> None:
    """Check, without loading anything, that the model is a folder, in the local hub cache, or on a reachable hub.

    Raises:
        UserError: no such folder, a folder without a model, or a hub model that is not in the cache and that the hub
            does not have or does not give to this token, or the hub cannot be reached.
    """
    location = base_model_location(base_model)
    if Path(location).is_dir():
        _check_folder(Path(location), base_model)
        return
    # Imported here: the hub's client is slow to import, and most callers only ask for the location.
    from huggingface_hub import HfApi, try_to_load_from_cache

    from components.shared.models.hub import hub_is_reachable, named_refusals

    if isinstance(try_to_load_from_cache(location, "config.json", revision=revision), str):
        return
    if not hub_is_reachable():
        raise UserError(
            "a hub model that is not in the local cache needs a network, and the hub cannot be reached",
            where=f"base_model {base_model!r}",
            mend=f"give a folder or {TINY_BASE!r}, or connect and try again",
        )
    with named_refusals(f"base_model {base_model!r}"):
        HfApi().model_info(location, revision=revision)


def _check_folder(folder: Path, base_model: str) -> None:
    """Reject a folder that transformers cannot load: it needs config.json and weights."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        problem, mend = "the folder holds an adapter, not a model", "give the model that the adapter was trained on"
    elif not (folder / "config.json").is_file():
        problem, mend = "the folder holds no model: it has no config.json", "give the folder that save_pretrained wrote"
    elif not any(one.suffix in (".safetensors", ".bin") for one in folder.iterdir()):
        problem, mend = "the folder holds no weights: no *.safetensors and no *.bin", "download or copy the whole model"
    else:
        return
    raise UserError(problem, where=f"base_model {base_model!r}", mend=mend)
