"""The memory that a training's weights need at least, compared with what there is, before anything is loaded."""

from components.shared.models.weight_memory import BFLOAT16, FLOAT32, LoadedFormat, check_weights_fit
from components.train.config import TrainConfig

_NF4 = LoadedFormat("NF4", 0.5)
_INT8 = LoadedFormat("I8", 1)
_GRADIENT_BYTES = 4
_OPTIMIZER_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2}


def check_least_memory(config: TrainConfig) -> None:
    """Refuse a training whose weights cannot fit; activations do not count, so that nothing is refused that would run.

    Does nothing with ``config.ignore_memory_estimate``.

    Raises:
        UserError: the weights, and with ``peft: none`` their gradients and optimizer states, cannot fit.
    """
    if config.ignore_memory_estimate:
        return
    mends = ["go on with ignore_memory_estimate: true"]
    if config.peft == "none":
        mends = ["train an adapter (peft: lora)", *mends]
    elif not config.load_in_4bit:
        mends = ["set load_in_4bit", *mends]
    check_weights_fit(config.base_model, config.revision, _loaded_format(config), mends)


def _loaded_format(config: TrainConfig) -> LoadedFormat:
    if config.peft == "none":
        return LoadedFormat("F32", 4, _GRADIENT_BYTES + _OPTIMIZER_BYTES[config.optim])
    if config.load_in_4bit:
        return _NF4
    if config.load_in_8bit:
        return _INT8
    import torch

    on_gpu = torch.cuda.is_available()
    return BFLOAT16 if config.dtype == "bfloat16" or (config.dtype == "auto" and on_gpu) else FLOAT32
