"""Loads the train step's result: a PEFT adapter on its base, or a full model after full fine-tuning."""

import warnings
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel, ProcessorMixin

from components.shared.artifacts.package_files import PACKAGE_SETTINGS, json_mapping
from components.shared.artifacts.training_record import training_record
from components.shared.errors import UserError, first_line
from components.shared.models.adapter_patterns import check_adapter_patterns
from components.shared.models.base_identity import base_identity
from components.shared.models.base_models import base_model_location
from components.shared.models.model_loading import load_model, load_processor
from components.shared.models.weight_files import check_weight_files, is_finite, not_finite, refuse_pickled_weights
from components.shared.page_reader.base_check import BASE_DIFFERENCES

AdapterKind = Literal["adapter", "model"]

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MODEL_CONFIG = "config.json"
_MEND = "point adapter_dir at a folder that the train step made"


def adapter_kind(adapter_dir: Path) -> AdapterKind:
    """Return ``adapter`` for a folder with a PEFT adapter, ``model`` for one with a full model.

    Raises:
        UserError: the folder holds neither, or an adapter without its weights.
    """
    if (adapter_dir / _ADAPTER_CONFIG).is_file():
        if not (adapter_dir / _ADAPTER_WEIGHTS).is_file():
            raise UserError(f"the adapter has no {_ADAPTER_WEIGHTS}", where=str(adapter_dir), mend=_MEND)
        return "adapter"
    if (adapter_dir / _MODEL_CONFIG).is_file():
        return "model"
    raise UserError(
        f"neither an adapter ({_ADAPTER_CONFIG}) nor a model ({_MODEL_CONFIG})", where=str(adapter_dir), mend=_MEND
    )


def check_base_of_adapter(base_model: str, revision: str | None, adapter_dir: Path) -> None:
    """Check that ``base_model`` is the base that the adapter was trained on; its location may differ.

    Hub ids (and ``tiny-base``) are compared by name and revision, and every base by the digests that the train step
    or the package recorded; only these distinguish checkpoints of the same architecture. An adapter without recorded
    values passes, and so does a full model.

    Raises:
        UserError: it is a different base, or it cannot be found.
    """
    if adapter_kind(adapter_dir) == "model":
        return
    training = training_record(adapter_dir)
    trained_on = training.base_model if training else None
    trained_revision = training.config.get("revision") if training else None
    names = [name for name in (trained_on, base_model) if name is not None and not _is_folder(name)]
    if len(names) == 2 and names[0] != names[1]:
        raise UserError(
            f"the adapter is for another base: it was trained on {names[0]!r}, base_model is {names[1]!r}",
            where=str(adapter_dir),
            mend=f"give base_model {names[0]!r}, or train an adapter for {names[1]!r}",
        )
    if len(names) == 2 and revision and trained_revision and revision != trained_revision:
        raise UserError(
            f"the adapter is for another base: it was trained on revision {trained_revision!r} of {names[0]!r}, "
            f"revision is {revision!r}",
            where=str(adapter_dir),
            mend=f"give revision {trained_revision!r}, or train an adapter for the other",
        )
    recorded = training.base.as_json() if training and training.base else _packaged_base(adapter_dir)
    _check_fingerprint(recorded, base_model, revision, adapter_dir)


def _check_fingerprint(recorded: Any, base_model: str, revision: str | None, adapter_dir: Path) -> None:
    if not isinstance(recorded, dict):
        return
    try:
        found = base_identity(base_model, base_model_location(base_model), revision).as_json()
    except OSError:
        return  # neither local nor downloadable; loading reports it
    differing = [
        what
        for name, what in BASE_DIFFERENCES.items()
        if recorded.get(name) and found[name] and recorded[name] != found[name]
    ]
    if differing:
        raise UserError(
            f"the adapter is for another base: {base_model!r} is not the one that it was trained on, {differing[0]}",
            where=str(adapter_dir),
            mend="give the base_model or revision that it was trained on, or train an adapter for this one",
        )


def _packaged_base(folder: Path) -> Any:
    """Return the base named in a package's ``inference_config.json``; None if the folder is not a package."""
    path = folder / PACKAGE_SETTINGS
    if not path.is_file():
        return None
    return json_mapping(path, _MEND).get("base")


def _is_folder(base_model: str) -> bool:
    return Path(base_model).is_absolute() or base_model.startswith((".", "~")) or Path(base_model).is_dir()


def check_fine_tuned_weights(adapter_dir: Path) -> None:
    """Check that the weights of an adapter or a full model are complete and finite; the base is not needed.

    Raises:
        UserError: not a folder of a fine-tuned model, a truncated or corrupt file, or NaN or infinite weights.
    """
    if adapter_kind(adapter_dir) == "adapter":
        check_weight_files([adapter_dir / _ADAPTER_WEIGHTS])
    else:
        refuse_pickled_weights(adapter_dir)
        check_weight_files(sorted(adapter_dir.glob("*.safetensors")))


def load_fine_tuned(
    base_model: str,
    adapter_dir: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load the fine-tuned model in ``dtype`` onto ``device``, ready for generation.

    An adapter is not merged into ``base_model``. For a full model, ``base_model`` and ``revision`` are ignored.

    Raises:
        UserError: the folder holds neither adapter nor model, an adapter that does not fit ``base_model``, or
            weights that are truncated, NaN or infinite.
    """
    if adapter_kind(adapter_dir) == "model":
        model = load_model(str(adapter_dir.absolute()), dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        weights = dict(model.named_parameters())
        if bad := [name for name, weight in weights.items() if not is_finite(weight)]:
            raise not_finite(bad, len(weights), str(adapter_dir))
        return model.eval()
    base = load_model(base_model, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code)
    return with_adapter(base, base_model, adapter_dir).eval()


def load_fine_tuned_processor(
    base_model: str, adapter_dir: Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> ProcessorMixin:
    """Load the processor saved with the fine-tuned model, or the base's if none was saved."""
    if (adapter_dir / "tokenizer_config.json").is_file() and any(
        (adapter_dir / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")
    ):
        return load_processor(str(adapter_dir.absolute()), trust_remote_code=trust_remote_code)
    return load_processor(base_model, revision=revision, trust_remote_code=trust_remote_code)


def with_adapter(
    base: PreTrainedModel, base_model: str, adapter_dir: Path, adapter_name: str = "default"
) -> PreTrainedModel:
    """Put the adapter in ``adapter_dir`` on ``base``, which was loaded from ``base_model``.

    Args:
        base: a model, or what this function returned: then the adapter is one more on the same model, and not active.
        adapter_name: PEFT's name for it, without dots.

    Raises:
        UserError: it does not fit, or its weights are truncated, NaN or infinite; ``base`` is as before then.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    where = str(adapter_dir)
    mend = f"is it the adapter of another base_model than {base_model!r}? if not, train again"
    check_weight_files([adapter_dir / _ADAPTER_WEIGHTS])
    bare: Any = base.get_base_model() if isinstance(base, PeftModel) else base
    check_adapter_patterns(adapter_dir / _ADAPTER_CONFIG, (name for name, _ in bare.named_modules()))
    stored = load_file(adapter_dir / _ADAPTER_WEIGHTS)
    try:
        with warnings.catch_warnings():
            # PEFT only warns about missing keys; the check below makes them an error.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            if isinstance(base, PeftModel):
                base.load_adapter(str(adapter_dir), adapter_name=adapter_name)
                model = base
            else:
                model = PeftModel.from_pretrained(base, str(adapter_dir), adapter_name=adapter_name)
        # PEFT 0.21 with transformers 5.17 renames the keys of some families as if they were an old checkpoint's
        # (deepseek_ocr2: language_model.layers becomes language_model.language_model.layers), loads none of them and
        # leaves an adapter that does nothing. So the weights are set here, under the names that PEFT saved them with.
        adapter = get_peft_model_state_dict(model, adapter_name=adapter_name)
        with torch.no_grad():
            for name in adapter.keys() & stored.keys():
                adapter[name].copy_(stored[name])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        _take_off(base, adapter_name)
        raise UserError(
            f"the adapter cannot be put on the base ({first_line(error)})", where=where, mend=mend
        ) from error
    if missing := sorted(adapter.keys() ^ stored.keys()):
        _take_off(base, adapter_name)
        raise UserError(
            f"the adapter does not fit the base ({len(missing)} weights differ in name, first {missing[0]})",
            where=where,
            mend=mend,
        )
    # A PeftModel is not a PreTrainedModel, but forwards generate, device, dtype and config to the one that it wraps.
    return cast(PreTrainedModel, model)


def _take_off(base: PreTrainedModel, adapter_name: str) -> None:
    """Remove an adapter that was put on ``base`` in part: PEFT changes the model's layers in place."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if isinstance(base, PeftModel):
        if adapter_name in base.peft_config:
            base.delete_adapter(adapter_name)
        return
    for name, module in list(base.named_modules()):
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            parent, _, last = name.rpartition(".")
            below = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(base.get_submodule(parent), last, below)
    vars(base).pop("peft_config", None)
