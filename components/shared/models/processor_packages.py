"""Which processors need packages beyond transformers and Pillow: torchvision for films, num2words for SmolVLM."""

from importlib.util import find_spec
from typing import Any

from components.shared.errors import UserError
from components.shared.models.model_families import FAMILIES

_TORCHVISION, _NUM2WORDS = "torchvision", "num2words"
# Qwen2.5-VL and GLM-OCR take other families' film processors; of Idefics3 transformers 5.17 loads the image processor
# for torchvision only.
_NOT_IN_THE_LIST = {"qwen2_5_vl", "glm_ocr", "idefics3"}
_FITTING = ", torchvision in the build that fits torch's"
_NEED_NUM2WORDS = {"smolvlm"}


def needed_packages(model_type: str) -> list[str]:
    """Return the packages that the processor of a ``model_type`` cannot be built without."""
    if model_type in FAMILIES:
        return []  # without the import, which takes a second
    from transformers.models.auto.auto_mappings import VIDEO_PROCESSOR_MAPPING_NAMES

    films = model_type in VIDEO_PROCESSOR_MAPPING_NAMES or model_type in _NOT_IN_THE_LIST
    return [_TORCHVISION] * films + [_NUM2WORDS] * (model_type in _NEED_NUM2WORDS)


def used_packages(processor: Any) -> list[str]:
    """Return the packages that a loaded processor uses.

    Where torchvision is installed, transformers takes it for pictures too, which it scales by other rounding than
    Pillow.
    """
    parts = [type(part) for part in vars(processor).values()]
    uses_torchvision = any(kind.__name__ == "TorchvisionBackend" for part in parts for kind in part.__mro__)
    needs_num2words = type(processor).__name__ == "SmolVLMProcessor"
    return [_TORCHVISION] * uses_torchvision + [_NUM2WORDS] * needs_num2words


def check_processor_packages(model_type: str, base_model: str) -> None:
    """Reject a model whose processor needs a package that is not installed here.

    Raises:
        UserError: names the packages.
    """
    missing = [name for name in needed_packages(model_type) if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the processor of the family {model_type} needs {' and '.join(missing)}, not installed here",
            where=f"base_model {base_model!r}",
            mend=f"install {' '.join(missing)}{_FITTING if _TORCHVISION in missing else ''}; or run in the images",
        )
