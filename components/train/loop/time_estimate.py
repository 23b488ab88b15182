"""How long a training will take, from its first steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_MEASURED_STEPS = 3
MEASURED_FROM = 2
"""The first step that counts: the first one also compiles kernels and fills caches."""
MEASURED_UNTIL = MEASURED_FROM + _MEASURED_STEPS - 1


@dataclass(frozen=True)
class TrainingTime:
    """The predicted time of a training, without loading the model, evaluations and checkpoints.

    Attributes:
        seconds_per_step: the median of the measured steps, with the wait for their pages.
        seconds: of all planned steps, those already made included.
        steps: planned.
    """

    seconds_per_step: float
    seconds: float
    steps: int


def training_time(
    step_seconds: Sequence[float], wait_seconds: Sequence[float], planned: int, resumed_after: int = 0
) -> TrainingTime | None:
    """Return the predicted time after step 4 of this process, and None at any other step.

    Args:
        step_seconds: of the steps made, also those before the training was resumed.
        wait_seconds: for the pages of each step, as many.
        planned: optimizer steps.
        resumed_after: the step after which this process went on.

    >>> training_time([9.0, 2.0, 2.0, 2.5], [0.0, 0.1, 0.1, 0.1], planned=100)
    TrainingTime(seconds_per_step=2.1, seconds=217.4, steps=100)
    """
    done = len(step_seconds)
    if done - resumed_after != MEASURED_UNTIL or done >= planned:
        return None
    made = [step + wait for step, wait in zip(step_seconds, wait_seconds, strict=False)]
    per_step = median(made[-_MEASURED_STEPS:])
    return TrainingTime(per_step, round(sum(made) + (planned - done) * per_step, 3), planned)
