"""Loads a package's model and processor."""

from importlib import import_module
from pathlib import Path
from typing import Any

from .base_check import check_base
from .refusal import RefusalError


def load_processor(package: Path, settings: dict[str, Any]) -> Any:
    """Load the processor in the folder ``package``; pictures are scaled by what scaled them in the evaluation.

    Raises:
        RefusalError: that is not installed.
    """
    processor, backend = _load_processor(package, settings), settings.get("image_backend")  # older packages: none
    if backend and _backend_of(processor) not in (None, backend):
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        options = {"trust_remote_code": settings["trust_remote_code"], "backend": backend}
        processor.image_processor = AutoImageProcessor.from_pretrained(str(package), **options)
        if _backend_of(processor) != backend:
            raise RefusalError(
                f"the model was evaluated with pictures that {backend} scaled, and it is not installed here:"
                " pip install -r requirements.txt"
            )
    return processor


def _backend_of(processor: Any) -> str | None:
    return getattr(getattr(processor, "image_processor", None), "backend", None)


def _load_processor(package: Path, settings: dict[str, Any]) -> Any:
    from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin

    _register_packed_classes()
    options = {"trust_remote_code": settings["trust_remote_code"]}
    try:
        return AutoProcessor.from_pretrained(str(package), **options)
    except ImportError:
        # transformers 5.17 imports torchvision to find the image processor of some families, although one that needs
        # only Pillow exists: so load the parts one by one.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor
        from transformers.models.auto.processing_auto import processor_class_from_name

        parts, _ = ProcessorMixin.get_processor_dict(str(package))
        return processor_class_from_name(parts["processor_class"])(
            image_processor=AutoImageProcessor.from_pretrained(str(package), **options),
            tokenizer=AutoTokenizer.from_pretrained(str(package), **options),
            chat_template=parts.get("chat_template"),
        )


def load_model(package: Path, settings: dict[str, Any], base_model: str | None, dtype: Any) -> Any:
    """Load the full model in ``package``, or the base with the adapter in ``package``.

    Raises:
        RefusalError: the base is not the adapter's, or is neither in the package nor given.
    """
    from transformers import AutoModelForImageTextToText

    _register_packed_classes()
    options = {"dtype": dtype, "trust_remote_code": settings["trust_remote_code"]}
    if settings["kind"] == "model":
        return AutoModelForImageTextToText.from_pretrained(str(package), use_safetensors=True, **options)
    check_base_is_known(package, settings, base_model)
    from peft import PeftModel

    if base_model is None and settings["base_in_package"]:
        base_model = str(package / settings["base_model"])
    elif base_model is None or base_model == settings["base_model"]:
        base_model = settings["base_model"]
        options["revision"] = settings["revision"]
    base = AutoModelForImageTextToText.from_pretrained(base_model, use_safetensors=True, **options)
    if not Path(base_model).is_dir():
        from transformers.utils import cached_file

        config = cached_file(base_model, "config.json", revision=options.get("revision"), local_files_only=True)
        check_base(settings["base"], Path(str(config)).parent, base_model)
    model = PeftModel.from_pretrained(base, str(package))
    _set_adapter_weights(package, model)
    return model


def check_base_is_known(package: Path, settings: dict[str, Any], base_model: str | None) -> None:
    """Check, before anything is loaded, that there is a base, and that a base in a folder is the adapter's.

    Raises:
        RefusalError: it is another one, or none is known.
    """
    if settings["kind"] != "adapter":
        return
    if settings["base_model"] is None and base_model is None:
        raise RefusalError(
            "the base model is not in this package: add --base_model FOLDER,"
            " or in MLflow model_config={'base_model': FOLDER}"
        )
    folder = Path(base_model or package / settings["base_model"])
    if folder.is_dir():  # a hub model is checked after its download
        check_base(settings["base"], folder, str(folder))


def _register_packed_classes() -> None:
    """Make transformers know a model that it has no class for, if the package brings one."""
    if (Path(__file__).parent / "deepseek_ocr").is_dir():
        import_module(f"{__package__}.deepseek_ocr.registration").register_deepseek_ocr()


def _set_adapter_weights(package: Path, model: Any) -> None:
    """Copy the package's adapter weights into the model under the names they were saved with.

    PEFT 0.21 with transformers 5.17 renames the weights of some families (DeepSeek-OCR-2) and then loads none of them.
    """
    import torch
    from peft import get_peft_model_state_dict, load_peft_weights

    stored = load_peft_weights(str(package), device="cpu")
    weights = get_peft_model_state_dict(model)
    if weights.keys() != stored.keys():
        raise RefusalError("the adapter does not fit the base model")
    with torch.no_grad():
        for name, values in stored.items():
            weights[name].copy_(values)
