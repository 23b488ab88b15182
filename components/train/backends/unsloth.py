"""The Unsloth backend: Unsloth's kernels and gradient checkpointing, with the same LoRA settings."""

# Unsloth patches transformers and peft when it is imported, so import it before both.
import unsloth  # isort: skip
from pathlib import Path
from typing import Any, Literal

from components.shared.artifacts.training_record import BackendName
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import base_model_location, default_device, load_processor
from components.shared.models.weight_files import refuse_pickled_weights
from components.train.backends.adapter import start_adapter, target_expert_names, target_module_names
from components.train.backends.protocol import TrainableModel
from components.train.backends.standard import compute_dtype, model_details
from components.train.config import TrainConfig


class UnslothBackend:
    """Trains a ``FastVisionModel``; Unsloth's gradient checkpointing keeps layer inputs in host memory."""

    name: BackendName = "unsloth"

    def load(self, config: TrainConfig) -> TrainableModel:
        """Load through Unsloth and add the adapter; see ``Backend.load``."""
        if config.peft == "none":
            raise UserError(
                "full fine-tuning is the standard backend's", where="backend", mend="set backend to standard"
            )
        if config.upcast_unquantized:
            raise UserError("is the standard backend's", where="upcast_unquantized", mend="leave it off")
        base = _loaded(config)
        processor = load_processor(
            config.base_model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        family = family_of(base.config.model_type)
        model = unsloth.FastVisionModel.get_peft_model(
            base,
            # Full names: with suffixes, Unsloth would also adapt the experts of a mixture.
            target_modules=target_module_names(config, base, family),
            target_parameters=target_expert_names(config, base),
            r=config.r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            bias="none",
            random_state=config.seed,
            use_gradient_checkpointing=_checkpointing(config),
        )
        start = start_adapter(model, config, compute_dtype(config, default_device()))
        unsloth.FastVisionModel.for_training(model)
        details = {"unsloth_version": unsloth.__version__, **model_details(model, start)}
        return TrainableModel(model, processor, family, details, checkpoints_itself=True, start=start)


def _checkpointing(config: TrainConfig) -> Literal["unsloth", False]:
    return "unsloth" if config.gradient_checkpointing else False


def _loaded(config: TrainConfig) -> Any:
    location = base_model_location(config.base_model)
    refuse_pickled_weights(Path(location))
    try:
        model, _ = unsloth.FastVisionModel.from_pretrained(
            location,
            dtype=compute_dtype(config, default_device()),
            # Without it, Unsloth allocates memory on every visible device and may split the model over them.
            device_map={"": str(default_device())},
            load_in_4bit=config.load_in_4bit,
            load_in_8bit=config.load_in_8bit,
            max_seq_length=config.max_length,
            use_gradient_checkpointing=_checkpointing(config),
            trust_remote_code=config.trust_remote_code,
            revision=config.revision,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"Unsloth cannot load the model ({error})", where=f"base_model {location}") from error
    return model
