"""The names of a package's files, and how they relate to the originals."""

import json
from pathlib import Path
from typing import Any

LINEAGE_FILE = "lineage.json"
CARD_FILE = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
TRAINING_FILE = "training.json"
SAMPLES_FILE = "samples.parquet"
EXAMPLE_FILE = "example_page.png"
"""In the package and beside it: the picture in the model card."""
BASE_FOLDER = "base_model"
MERGED_FOLDER = "merged"
"""The folder of merged weights, beside the package."""
EVIDENCE_FOLDER = "lineage"
"""In the package: copies of the small files that ``lineage.json`` has digests of."""


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def restored_adapter_config(content: bytes, values: dict[str, Any]) -> bytes:
    """Return an adapter_config.json with ``values`` in it, written as PEFT writes it.

    Raises:
        ValueError: ``content`` is not a JSON mapping.
    """
    return json.dumps(dict(json.loads(content)) | values, indent=2, sort_keys=True).encode()
