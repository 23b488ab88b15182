"""The Unsloth backend: its kernels and its gradient checkpointing below the same LoRA settings."""

# Unsloth patches transformers and peft when it is imported, so it comes before both.
import unsloth  # isort: skip
from typing import Any

from components.shared.errors import UserError
from components.shared.model_families import family_of
from components.shared.model_loading import base_model_location, load_processor
from components.train.backends.protocol import TrainableModel
from components.train.backends.standard import target_module_names
from components.train.config import TrainConfig


class UnslothBackend:
    """``FastVisionModel`` with ``use_gradient_checkpointing="unsloth"``."""

    name = "unsloth"

    def load(self, config: TrainConfig) -> TrainableModel:
        """Load through Unsloth and add the adapter; see ``Backend.load``."""
        if config.peft == "none":
            raise UserError(
                "full fine-tuning is the standard backend's", where="backend", mend="set backend to standard"
            )
        location = base_model_location(config.base_model)
        try:
            model, _ = unsloth.FastVisionModel.from_pretrained(
                location,
                load_in_4bit=config.load_in_4bit,
                max_seq_length=config.max_length,
                use_gradient_checkpointing="unsloth",
                trust_remote_code=config.trust_remote_code,
                revision=config.revision,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"Unsloth cannot load the model ({error})", where=f"base_model {location}") from error
        processor = load_processor(
            config.base_model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        family = family_of(model.config.model_type)
        model = unsloth.FastVisionModel.get_peft_model(
            model,
            target_modules=target_module_names(config, model, family),
            r=config.r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            bias="none",
            random_state=config.seed,
        )
        unsloth.FastVisionModel.for_training(model)
        details: dict[str, Any] = {"unsloth_version": unsloth.__version__}
        return TrainableModel(model, processor, family, details)
