"""The training loop: transformers' Trainer, identical for every backend."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.models.model_families import in_language_model
from components.shared.programs.machine_failures import ran_out_of_device_memory
from components.shared.telemetry.progress import ProgressReport
from components.shared.tracking.step_run import TrackedRun
from components.shared.tracking.tracking_runs import PLANNED_STEPS_TAG
from components.train.backends.protocol import TrainableModel
from components.train.batches.batch_plan import BatchPlan, configured_plan, pages_per_step
from components.train.batches.collator import PageCollator, padding_granule
from components.train.batches.length_grouping import LengthGroupedPages, page_lengths
from components.train.batches.rope_positions import rope_positions_of
from components.train.config import TrainConfig
from components.train.loop.checkpoints import given_checkpoint, is_result, newest_whole_checkpoint
from components.train.loop.dealing import dealt_steps
from components.train.loop.held_out_reading import PageReading, held_out_sample
from components.train.loop.measurements import MeasuringCallback, TrainingMeasurements
from components.train.loop.page_trainer import (
    MEASUREMENTS_FILE,
    OptimizerStepCallback,
    PageTrainer,
    ResumeCallback,
    TerminationCallback,
)
from components.train.loop.utilization import peak_flops
from components.train.loop.vision_features import kept_vision_features
from components.train.processes.distributed import from_first, in_any_process, is_first, process_count
from components.train.processes.termination import Termination
from components.train.vision.frozen_vision import run_frozen_parts_without_gradients

log = logging.getLogger(__name__)
_STEPS_BETWEEN_CHECKPOINTS = 100


@dataclass(frozen=True)
class Beginning:
    """The batch plan, and the checkpoint to go on from: the one that the config names, or this one (None: no step)."""

    plan: BatchPlan
    as_configured: bool = True
    checkpoint: Path | None = None


class OutOfMemoryWhileTrainingError(Exception):
    """The device ran out of memory in a step or an evaluation; its cause says how.

    Attributes:
        trainer: holds the weights and states of the last finished step, unless the optimizer was changing them.
        after_step: the last finished step.
        smaller_plan: half of the plan; None if it was halved often enough.
    """

    def __init__(self, trainer: PageTrainer, plan: BatchPlan) -> None:
        self.trainer = trainer
        self.after_step = trainer.state.global_step
        self.smaller_plan = plan.halved(self.after_step)
        super().__init__(f"out of device memory after step {self.after_step}")


def train(
    trainable: TrainableModel,
    dataset: ShardDataset,
    config: TrainConfig,
    folder: Path,
    tracked: TrackedRun,
    identity: dict[str, Any] | None = None,
    termination: Termination | None = None,
    beginning: Beginning | None = None,
) -> TrainingMeasurements:
    """Train the model in place, from a checkpoint if there is one; return the measurements since the first step.

    Args:
        trainable: the model that the backend loaded.
        dataset: the training pages.
        config: the step's config.
        folder: the folder of this training's checkpoints.
        tracked: the run that metrics are logged to.
        identity: checkpoints must have the same identity, see ``training_identity``.
        termination: if requested, training ends after the current step, with a checkpoint.
        beginning: the batch plan, and where to begin; by default, those of the config.

    Raises:
        OutOfMemoryWhileTrainingError: the device ran out of memory in a step or an evaluation.
    """
    identity, termination = identity or {}, termination or Termination()
    beginning = beginning or Beginning(configured_plan(config))
    planned = _planned_steps(len(dataset), config)
    tracked.set_tags({PLANNED_STEPS_TAG: planned})
    checkpoint = beginning.checkpoint
    if beginning.as_configured:
        checkpoint = from_first(_checkpoint(config, folder, identity, planned) if is_first() else None)
    measurements = _measurements(checkpoint)
    plan = beginning.plan.after((measurements.batch or {}).get("halvings", ()))
    measurements.batch = plan.as_json()
    trainer = _trainer(trainable, dataset, config, folder, identity, measurements, termination, plan)
    if checkpoint and is_result(checkpoint, planned):
        trainer.take_finished(checkpoint)
        return measurements
    with (
        kept_vision_features(trainer, trainable, config, measurements),
        dealt_steps(trainer, trainable, config, plan, measurements),
        ProgressReport("train", planned) as progress,
        termination.at_the_next_step(),
    ):
        progress.advance(len(measurements.step_seconds))
        trainer.add_callback(MeasuringCallback(measurements, tracked, progress, _peak_flops(trainer)))
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UserError as error:
            raise _without_worker_traceback(error) from error
        except Exception as error:
            if ran_out_of_device_memory(error):
                raise OutOfMemoryWhileTrainingError(trainer, plan) from error
            raise
        finally:
            trainer.end_data_workers()
        _check_all_steps_were_made(trainer.state.global_step, planned, config, measurements, termination)
    return measurements


def _without_worker_traceback(error: UserError) -> UserError:
    """Return a data worker's error with its own message: PyTorch raises it again with the traceback as the message."""
    _, found, said = str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")
    return UserError(said) if found else error


def _check_all_steps_were_made(
    made: int, planned: int, config: TrainConfig, measurements: TrainingMeasurements, termination: Termination
) -> None:
    may_stop_early = config.early_stopping_patience is not None and measurements.eval_steps
    if made < planned and not may_stop_early and not in_any_process(termination.requested):
        raise UserError(
            f"the training ended after {made} of {planned} steps, without early stopping or termination",
            where="train",
            mend="see the warnings above; data loading ended too soon, and nothing was written",
        )


def _peak_flops(trainer: PageTrainer) -> float | None:
    if not (trainer.args.bf16 and torch.cuda.is_available()):
        return None
    peak = peak_flops(torch.cuda.get_device_name())
    return peak and peak * process_count()


def _checkpoint(config: TrainConfig, folder: Path, identity: dict[str, Any], planned_steps: int) -> Path | None:
    if config.resume_from_checkpoint == "never":
        return None
    if config.resume_from_checkpoint == "auto":
        return newest_whole_checkpoint(folder) if config.checkpoint_dir else None
    return given_checkpoint(Path(config.resume_from_checkpoint), identity, planned_steps)


def _measurements(checkpoint: Path | None) -> TrainingMeasurements:
    if checkpoint is None:
        return TrainingMeasurements()
    stored = json.loads((checkpoint / MEASUREMENTS_FILE).read_text(encoding="utf-8"))
    measurements = TrainingMeasurements(**stored)
    measurements.resumed_after_steps.append(len(measurements.step_seconds))
    log.info("training goes on after step %d, from %s", len(measurements.step_seconds), checkpoint)
    return measurements


def _trainer(
    trainable: TrainableModel,
    dataset: ShardDataset,
    config: TrainConfig,
    folder: Path,
    identity: dict[str, Any],
    measurements: TrainingMeasurements,
    termination: Termination,
    plan: BatchPlan,
) -> PageTrainer:
    model, processor, family = trainable.model, trainable.processor, trainable.family
    run_frozen_parts_without_gradients(model)
    held_out = held_out_sample(config) if config.eval_steps else None
    read = [held_out[index] for index in range(min(config.eval_pages, len(held_out)))] if held_out else []
    collator = PageCollator(
        processor,
        family,
        config.max_length,
        rope_positions_of(model),
        pad_to_multiple_of=padding_granule(config),
        micro_batch=plan.micro_batch,
    )
    checkpointing = config.gradient_checkpointing and not trainable.checkpoints_itself
    trainer = PageTrainer(
        measurements=measurements,
        collator=collator,
        reading=PageReading(read, processor, family, config, plan.micro_batch) if read else None,
        termination=termination,
        identity=identity,
        model=model,
        args=_training_arguments(config, plan, folder, checkpointing, _a_step_may_leave_weights_out(model)),
        train_dataset=dataset,
        eval_dataset=held_out,
    )
    if config.group_by_length:
        lengths = from_first(page_lengths(dataset, collator) if is_first() else [])
        trainer.take_pages_by(LengthGroupedPages(lengths, pages_per_step(config) * process_count(), config.seed))
    trainer.remove_callback(PrinterCallback)
    early_stopping = EarlyStoppingCallback(patience) if (patience := config.early_stopping_patience) else None
    if early_stopping:
        trainer.add_callback(early_stopping)
    trainer.add_callback(ResumeCallback(trainer, early_stopping))
    trainer.add_callback(OptimizerStepCallback(trainer))
    trainer.add_callback(TerminationCallback(termination, config.checkpoint_dir is not None))
    return trainer


def _planned_steps(samples: int, config: TrainConfig) -> int:
    if config.max_steps is not None:
        return config.max_steps
    per_epoch = -(-samples // (pages_per_step(config) * process_count()))
    return math.ceil(per_epoch * config.num_train_epochs)  # as transformers rounds it


def _a_step_may_leave_weights_out(model: torch.nn.Module) -> bool:
    """Return whether a step may leave some trained weights unused; DDP takes time to look for them.

    The language model uses all its weights in each step, except experts that no token visits. Other parts may not: for
    instance, the vision part of DeepSeek's models has weights for crops only.
    """
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return any(not in_language_model(name) or ".experts." in name for name in trained)


class OneDeviceArguments(TrainingArguments):
    """Trains on one device per process, whatever others are visible; ``num_gpus`` starts a process for each."""

    @property
    def n_gpu(self) -> int:
        """Return 1, or 0 without a GPU: with more, transformers wraps the model in ``nn.DataParallel``.

        In a process with two H100s, that doubled the batch and the losses with packed weights, and failed in 16 bits.
        """
        return min(1, super().n_gpu)


def _training_arguments(
    config: TrainConfig, plan: BatchPlan, folder: Path, checkpointing: bool, find_unused_parameters: bool
) -> OneDeviceArguments:
    on_gpu = torch.cuda.is_available()
    bf16 = config.dtype == "bfloat16" or (config.dtype == "auto" and on_gpu)
    return OneDeviceArguments(
        output_dir=str(folder),
        per_device_train_batch_size=plan.loaded,
        per_device_eval_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=plan.loads,
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
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=find_unused_parameters,
        ddp_broadcast_buffers=False,  # no buffer changes during training
        **_intervals(config),
    )


def _intervals(config: TrainConfig) -> dict[str, Any]:
    intervals: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no"}
    if config.eval_steps:
        intervals |= {"eval_strategy": "steps", "eval_steps": config.eval_steps}
    if config.early_stopping_patience:
        intervals |= {"save_strategy": "steps", "save_steps": config.eval_steps, "load_best_model_at_end": True}
        intervals |= {"metric_for_best_model": config.metric_for_best_model, "greater_is_better": False}
    elif config.checkpoint_dir:
        intervals |= {"save_strategy": "steps", "save_steps": config.save_steps or _STEPS_BETWEEN_CHECKPOINTS}
    # Two: the previous checkpoint stays while a new one is written and read back.
    return intervals | {"save_total_limit": 2}
