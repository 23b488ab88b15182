"""transformers' Trainer for pages: counts tokens, transcribes held-out pages, and writes verified checkpoints.

Four parts of transformers' Trainer are replaced. Its SIGTERM checkpoint is written in the middle of a step, so the step
is not repeated exactly. Its adapter loading silently loads nothing for some families (see
``components/shared/models/adapter_loading.py``). Its checkpoints are not read back. Its removal of old checkpoints
deletes the best one before the new one is known to be whole.
"""

import json
import logging
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from components.shared.errors import UserError
from components.train.batches.batch_plan import BatchPlan
from components.train.batches.collator import PageCollator
from components.train.loop.checkpoints import NotFiniteError, damage, seal
from components.train.loop.held_out_reading import EvaluationStoppedError, PageReading, undisturbed_training
from components.train.loop.measurements import TrainingMeasurements
from components.train.loop.micro_batches import MicroBatchTrainer
from components.train.processes.distributed import in_any_process, is_first, wait_for_all
from components.train.processes.termination import Termination

log = logging.getLogger(__name__)

WEIGHTS_FILE = "trainable.safetensors"
MEASUREMENTS_FILE = "measurements.json"
_NOT_WRITTEN = (OSError, RuntimeError, ValueError, SafetensorError)


class PageTrainer(MicroBatchTrainer):
    """A Trainer over batches of ``PageCollator``; ``identity`` is written into its checkpoints."""

    def __init__(
        self,
        *,
        measurements: TrainingMeasurements,
        collator: PageCollator,
        reading: PageReading | None,
        termination: Termination,
        identity: dict[str, Any],
        model: torch.nn.Module,
        **options: Any,
    ) -> None:
        super().__init__(measurements=measurements, collator=collator, model=model, **options)
        self._trained = model
        self._reading = reading
        self._termination = termination
        self._identity = identity
        self._unwritten: Exception | None = None
        self._best_before: tuple[Any, Any, Any] = (None, None, None)
        self._most_checkpoints, self.args.save_total_limit = self.args.save_total_limit, None
        self.optimizer_is_stepping = False
        """whether the optimizer may have changed weights in a step that is not finished"""
        self._say_how_tokens_count()

    def _say_how_tokens_count(self) -> None:
        batches = self.args.gradient_accumulation_steps * self.args.world_size
        if batches > 1 and not self.model_accepts_loss_kwargs:
            log.warning(
                "this model's loss is the mean over the tokens of each batch for itself, and a step has %d batches:"
                " tokens in a batch of short pages count more than in one batch of all pages",
                batches,
            )

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *places: Any, **options: Any) -> Any:
        """Compute the loss of one held-out batch."""
        if in_any_process(self._termination.requested):
            raise EvaluationStoppedError
        return super().prediction_step(model, inputs, *places, **options)

    def evaluation_loop(self, *places: Any, **options: Any) -> Any:
        """Add CER and WER of the pages that are transcribed."""
        output: Any = super().evaluation_loop(*places, **options)
        if self._reading:
            rates = self._reading.error_rates(self._trained, lambda: self._termination.requested)
            output.metrics.update({f"eval_{name}": rate for name, rate in rates.items()})
        return output

    def _evaluate(self, *places: Any, **options: Any) -> dict[str, float]:
        with undisturbed_training(self._trained):
            try:
                return super()._evaluate(*places, **options)
            except EvaluationStoppedError:
                self.control.should_save = self.control.should_training_stop = True
                return {str(self.args.metric_for_best_model): float("nan")}

    def evaluate_if_left_out(self) -> None:
        """Run the evaluation that was due at the checkpoint's step if SIGTERM prevented it."""
        step = self.state.global_step
        due = step and self.args.eval_strategy == "steps" and step % self.state.eval_steps == 0
        if due and step not in self._measurements.eval_steps:
            self._determine_best_metric(self._evaluate(None, None), None)

    def _determine_best_metric(self, *places: Any, **options: Any) -> bool:
        state = self.state
        self._best_before = (state.best_metric, state.best_global_step, state.best_model_checkpoint)
        return super()._determine_best_metric(*places, **options)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write, read back and seal a checkpoint; if it cannot be written, log a warning and continue training."""
        started = time.perf_counter()
        step = self.state.global_step
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        self._remove(folder)
        wait_for_all()
        failure = self._write_checkpoint(model, trial)
        # Each process writes its random state. All must also agree on the best step, so that early stopping ends all.
        if not in_any_process(failure is not None) and is_first():
            failure = self._seal_checkpoint(folder)
        if in_any_process(failure is not None):
            self._go_on_without(folder, failure or OSError("another process could not write its part"))
        elif is_first():
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), self._most_checkpoints, best, use_mtime=True)
        self._measurements.checkpoint_seconds.append(time.perf_counter() - started)

    def drop_unfinished_step(self, next_plan: BatchPlan) -> None:
        """Forget the gradients and counts of a step that failed; it is done again with ``next_plan``."""
        self._trained.zero_grad(set_to_none=True)
        self._measurements.drop_unfinished_step()
        self._measurements.batch = next_plan.as_json()

    def keep_last_step(self) -> Path | None:
        """Return a whole checkpoint of the last finished step, written now unless there is one; None if it fails."""
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if damage(folder) is not None:
            self._save_checkpoint(self._trained, None)
        return folder if damage(folder) is None else None

    def _go_on_without(self, folder: Path, failure: Exception) -> None:
        self._remove(folder)
        state = self.state
        if state.best_global_step == state.global_step:  # the best step must be one whose weights are saved
            state.best_metric, state.best_global_step, state.best_model_checkpoint = self._best_before
        self._measurements.failed_checkpoints += 1
        log.warning("no checkpoint at step %d, the training goes on: %s", state.global_step, failure)

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any) -> Exception | None:
        self._unwritten = None
        try:
            super()._save_checkpoint(model, trial)
        except _NOT_WRITTEN as error:
            return self._unwritten or error
        return self._unwritten

    def _seal_checkpoint(self, folder: Path) -> Exception | None:
        step = self.state.global_step
        stopped_by_itself = self.control.should_training_stop and not self._termination.requested
        try:
            measured = json.dumps(asdict(self._measurements))
            (folder / MEASUREMENTS_FILE).write_text(measured, encoding="utf-8")
            seal(folder, step, step >= self.state.max_steps or stopped_by_itself, self._identity)
        except NotFiniteError as error:
            self._remove(folder)
            raise UserError(f"{error} at step {step}", where="learning_rate", mend="lower it") from error
        except _NOT_WRITTEN as error:
            return error
        return None

    def _remove(self, folder: Path) -> None:
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the trainable weights under their names in the model."""
        folder = Path(str(output_dir or self.args.output_dir))
        weights = {name: weight.detach().contiguous() for name, weight in self._trainable().items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / WEIGHTS_FILE)
        except _NOT_WRITTEN as error:
            self._unwritten = error  # if raised here, it would skip the barrier at which the other processes wait

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        stored = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        weights = self._trainable()
        if differing := sorted(stored.keys() ^ weights.keys()):
            raise UserError(
                f"{len(differing)} weights differ in name from the model's, first {differing[0]}",
                where=f"checkpoint {resume_from_checkpoint}",
                mend="train from the start with resume_from_checkpoint: never",
            )
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(stored[name])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.args.device.type == "cpu":
            # With several processes, accelerate names the device cpu:0, which torch.load does not accept.
            vars(self.args)["_setup_devices"] = torch.device("cpu")
        super()._load_optimizer_and_scheduler(checkpoint)

    def _finalize_training(self, *places: Any, **options: Any) -> Any:
        output = super()._finalize_training(*places, **options)
        self._say_where_none_is_best()
        return output

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        # Only the first process saves the result, and other machines may not see its checkpoints.
        if is_first() and (best / WEIGHTS_FILE).is_file():
            self._load_from_checkpoint(str(best))
            self._measurements.best_step = self.state.best_global_step

    def _say_where_none_is_best(self) -> None:
        wanted = self.args.load_best_model_at_end and not self._termination.requested
        if wanted and is_first() and self._measurements.best_step is None:
            log.warning("no checkpoint of the best step is left: the weights are those of the last step")

    def _trainable(self) -> dict[str, torch.nn.Parameter]:
        return {name: weight for name, weight in self._trained.named_parameters() if weight.requires_grad}

    def take_finished(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint that is the training's result; the Trainer would train another step."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(checkpoint))
        if self.args.load_best_model_at_end:
            best = checkpoint.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best)
            self._load_best_model()
            self._say_where_none_is_best()


class ResumeCallback(TrainerCallback):
    """Corrects what transformers restores from a checkpoint: intervals, the best one's path, patience, epoch."""

    def __init__(self, trainer: PageTrainer, early_stopping: EarlyStoppingCallback | None) -> None:
        self._trainer = trainer
        self._early_stopping = early_stopping

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called before the first step."""
        state.compute_steps(args, state.max_steps)
        stored: Any = state.stateful_callbacks or {}
        if self._early_stopping and EarlyStoppingCallback.__name__ in stored:
            attributes = stored[EarlyStoppingCallback.__name__]["attributes"]
            self._early_stopping.early_stopping_patience_counter = attributes["early_stopping_patience_counter"]
        self._trainer.evaluate_if_left_out()
        best = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called before the epoch's pages are taken."""
        self._trainer.order_pages_for(int(state.epoch or 0))


class OptimizerStepCallback(TrainerCallback):
    """Tells the trainer when the optimizer begins to change the weights, and when the step is finished."""

    def __init__(self, trainer: PageTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called before the optimizer's step."""
        self._trainer.optimizer_is_stepping = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called after each optimizer step, with the scheduler moved on."""
        self._trainer.optimizer_is_stepping = False


class TerminationCallback(TrainerCallback):
    """Ends the training after the step in which SIGTERM arrived, with a checkpoint if checkpoints are kept."""

    def __init__(self, termination: Termination, keeps_checkpoints: bool) -> None:
        self._termination = termination
        self._keeps_checkpoints = keeps_checkpoints

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called after each optimizer step."""
        self._termination.requested = in_any_process(self._termination.requested)
        if self._termination.requested:
            control.should_training_stop = True
            control.should_evaluate = False  # a preempted node leaves seconds; an evaluation may take minutes
            control.should_save = self._keeps_checkpoints
