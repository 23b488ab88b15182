"""The training loop: transformers' Trainer, the same for every backend."""

from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from components.shared.errors import UserError
from components.shared.progress import ProgressReport
from components.shared.shard_reader import ShardDataset
from components.shared.tracking import TrackedRun
from components.train.backends.protocol import TrainableModel
from components.train.collator import PageCollator, every_page_has_an_answer
from components.train.config import TrainConfig
from components.train.frozen_vision import run_frozen_parts_without_gradients
from components.train.measurements import MeasuringCallback, TrainingMeasurements
from components.train.rope_positions import rope_positions_of


class PageTrainer(Trainer):
    """A Trainer that counts the samples and tokens of each step."""

    def __init__(self, *, measurements: TrainingMeasurements, collator: PageCollator, **options: Any) -> None:
        super().__init__(data_collator=collator, **options)
        self._measurements = measurements
        self._collator = collator

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Count, then train on one batch."""
        if not every_page_has_an_answer(inputs):
            raise UserError(
                f"{self._collator.max_length} tokens are used up by a page's picture and prompt, none is left for text",
                where="max_length",
                mend="raise it, or prepare smaller pages; nothing was written",
            )
        self._measurements.tokens_per_step[-1] += int(inputs["attention_mask"].sum())
        self._measurements.samples_per_step[-1] += len(inputs["input_ids"])
        ends = inputs["attention_mask"].sum(dim=1) - 1
        last_labels = inputs["labels"].gather(1, ends[:, None])
        end_token = self._collator.processor.tokenizer.eos_token_id
        self._measurements.truncated_samples += int((last_labels != end_token).sum())
        return super().training_step(model, inputs, num_items_in_batch)


def train(
    trainable: TrainableModel, dataset: ShardDataset, config: TrainConfig, scratch: Path, tracked: TrackedRun
) -> TrainingMeasurements:
    """Train in place and return what was measured; ``scratch`` takes the Trainer's temporary files."""
    measurements = TrainingMeasurements()
    run_frozen_parts_without_gradients(trainable.model)
    trainer = PageTrainer(
        measurements=measurements,
        model=trainable.model,
        args=_training_arguments(config, scratch, config.gradient_checkpointing and not trainable.checkpoints_itself),
        train_dataset=dataset,
        collator=PageCollator(
            trainable.processor, trainable.family, config.max_length, rope_positions_of(trainable.model)
        ),
    )
    trainer.remove_callback(PrinterCallback)
    with ProgressReport("train", _planned_steps(len(dataset), config)) as progress:
        trainer.add_callback(MeasuringCallback(measurements, tracked, progress))
        trainer.train()
    return measurements


def _planned_steps(samples: int, config: TrainConfig) -> int:
    if config.max_steps is not None:
        return config.max_steps
    per_epoch = -(-samples // (config.per_device_train_batch_size * config.gradient_accumulation_steps))
    return max(1, round(per_epoch * config.num_train_epochs))


def _training_arguments(config: TrainConfig, scratch: Path, checkpointing: bool) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    bf16 = config.dtype == "bfloat16" or (config.dtype == "auto" and on_gpu)
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps or -1,
        bf16=bf16,
        gradient_checkpointing=checkpointing,
        dataloader_num_workers=config.dataloader_num_workers,
        dataloader_persistent_workers=config.dataloader_num_workers > 0,
        dataloader_pin_memory=on_gpu,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not on_gpu,
    )
