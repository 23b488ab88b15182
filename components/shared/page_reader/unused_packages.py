"""Leaves out packages that transformers and PEFT import at their start although reading pages needs none of them."""

import json
import sys
from pathlib import Path
from typing import Any

# transformers imports it for assisted decoding, with SciPy and joblib.
SCIKIT_LEARN = "sklearn"
# PEFT imports it for quantised models, and it imports torch's compiler. Both together are 40 % of a short reading's CPU
# time where they are installed (11.5 s and 6.7 s for one page with the tiny base).
BITSANDBYTES = "bitsandbytes"


def leave_out_unused_packages(package: Path, settings: dict[str, Any], base_model: str | None) -> None:
    """Make these packages look not installed in this process; bitsandbytes only if the model is surely not quantised.

    For a program of its own, before transformers is imported.
    """
    unused = [SCIKIT_LEARN] if _may_be_quantised(package, settings, base_model) else [SCIKIT_LEARN, BITSANDBYTES]
    for name in unused:
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say that an import fails


def _may_be_quantised(package: Path, settings: dict[str, Any], base_model: str | None) -> bool:
    """Return whether the model's config says so, or is not here (a hub model)."""
    folder = package
    if settings["kind"] == "adapter":
        folder = Path(base_model or package / (settings["base_model"] or ""))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not isinstance(config, dict) or "quantization_config" in config
