"""Goes on with a smaller batch where the device runs out of memory while training.

One process goes on by itself: from the last finished step, whose checkpoint it writes, or from its newest checkpoint if
the memory ran out while the optimizer changed the weights. Several processes all end, because those that wait for the
failed one's gradients cannot be called back; ``processes/launch.py`` starts all of them again from their newest
checkpoint, so that all or none use the smaller batch.
"""

import logging
import traceback
from pathlib import Path
from typing import Any

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import first_line
from components.shared.models.model_loading import release_memory
from components.shared.programs.machine_failures import causes_of
from components.shared.tracking.step_run import TrackedRun
from components.train.backends.protocol import TrainableModel
from components.train.batches.batch_plan import BatchPlan, in_words
from components.train.config import TrainConfig
from components.train.loop.checkpoints import newest_whole_checkpoint
from components.train.loop.measurements import TrainingMeasurements
from components.train.loop.training import Beginning, OutOfMemoryWhileTrainingError, train
from components.train.processes.distributed import process_count
from components.train.processes.termination import Termination

log = logging.getLogger(__name__)


def train_within_memory(
    trainable: TrainableModel,
    dataset: ShardDataset,
    config: TrainConfig,
    folder: Path,
    tracked: TrackedRun,
    identity: dict[str, Any],
    termination: Termination,
    plan: BatchPlan,
) -> TrainingMeasurements:
    """Train as ``train`` does; out of memory, go on with half the micro-batch, at most twice.

    Raises:
        OutOfMemoryWhileTrainingError: it ran out of memory again, or there is nothing to go on from.
    """
    beginning = Beginning(plan)
    while True:
        try:
            return train(trainable, dataset, config, folder, tracked, identity, termination, beginning)
        except OutOfMemoryWhileTrainingError as error:
            smaller = _smaller(error, folder)
            if smaller is None:
                raise
            _say(error, smaller, tracked)
            beginning = smaller
        release_memory()  # only now: the error holds the failed trainer


def _smaller(error: OutOfMemoryWhileTrainingError, folder: Path) -> Beginning | None:
    """Return where to go on, and with which plan; None if that is not possible."""
    if process_count() > 1 or error.smaller_plan is None:
        return None
    trainer, step = error.trainer, error.after_step
    # The frames of the failed step hold its tensors.
    for cause in causes_of(error):
        traceback.clear_frames(cause.__traceback__)
    trainer.drop_unfinished_step(error.smaller_plan)
    release_memory()
    if not trainer.optimizer_is_stepping and step == 0:
        return Beginning(error.smaller_plan, as_configured=False)
    kept = None if trainer.optimizer_is_stepping else trainer.keep_last_step()
    checkpoint = kept or newest_whole_checkpoint(folder)
    return Beginning(error.smaller_plan, as_configured=False, checkpoint=checkpoint) if checkpoint else None


def _say(error: OutOfMemoryWhileTrainingError, beginning: Beginning, tracked: TrackedRun) -> None:
    settings = beginning.plan.settings
    said = in_words(settings)
    place = f"from {beginning.checkpoint.name}" if beginning.checkpoint else "from the first step"
    reason = first_line(error.__cause__ or error)
    log.warning("out of memory after step %d, going on %s with %s: %s", error.after_step, place, said, reason)
    tracked.set_tags({"out_of_memory": f"after step {error.after_step}; then {said}"})
    tracked.log_metrics({name: float(value) for name, value in settings.items()}, step=error.after_step)
