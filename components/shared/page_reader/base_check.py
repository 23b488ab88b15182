"""Recognises the base model that an adapter was trained on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from .refusal import RefusalError

# These depend on the program that saved a model and on where it is stored: copies of one model can differ in them.
NOT_OF_THE_MODEL = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "_commit_hash"}
BASE_DIFFERENCES = {
    "config_sha256": "its config.json describes another model",
    "weights_sample_sha256": "its weights differ",
}


def check_base(expected: dict[str, Any], folder: Path, base_model: str) -> None:
    """Compare the base in ``folder`` with the one that the adapter was measured on.

    Raises:
        RefusalError: it is another one.
    """
    found = base_fingerprint(folder)
    for name, difference in BASE_DIFFERENCES.items():
        if expected[name] is not None and found[name] != expected[name]:
            revision = f" at revision {expected['revision']}" if expected["revision"] else ""
            raise RefusalError(
                f"{base_model} is not this adapter's base model: {difference}."
                f" The adapter fits only {expected['name']}{revision}"
            )


def base_fingerprint(folder: Path) -> dict[str, str | None]:
    """Return two digests that identify a base model: of its config, and of a sample of its weights.

    The sample is the first 64 bytes of each tensor: training changes them, a different split into files does not. It
    is None for weights that are not in safetensors.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sample = weights_sample(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"config_sha256": None, "weights_sample_sha256": None}
    text = json.dumps(without_origin(config), sort_keys=True)
    return {"config_sha256": hashlib.sha256(text.encode()).hexdigest(), "weights_sample_sha256": sample}


def without_origin(config: Any) -> Any:
    """Return a config without the fields that describe its origin, at any depth."""
    if isinstance(config, dict):
        return {name: without_origin(value) for name, value in config.items() if name not in NOT_OF_THE_MODEL}
    return config


def weights_sample(folder: Path) -> str | None:
    """Return the digest over each tensor's name, dtype, shape and first bytes."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not all((folder / name).is_file() for name in names):
        return None
    tensors = []
    for name in names:
        with (folder / name).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    begin, end = entry["data_offsets"]
                    stream.seek(8 + length + begin)
                    first = stream.read(min(64, end - begin)).hex()
                    tensors.append([tensor, entry["dtype"], entry["shape"], first])
    return hashlib.sha256(json.dumps(sorted(tensors)).encode()).hexdigest()
