"""What configure puts out: the outputs of the KFP component of that name."""

from typing import NamedTuple

TRAIN = "train"
UNCHANGED = "unchanged"
"""The decision of a run: to train, or to do nothing because the champion was trained on the same data."""
RUN = "run"
SKIP = "skip"
"""The decision on the benchmark, by the setting ``skip``."""


class StepSettings(NamedTuple):
    """One JSON text per step, digests of the sources and of the base, and the version that is the champion now.

    ``decision`` is ``TRAIN`` or ``UNCHANGED``, ``benchmark_decision`` ``RUN`` or ``SKIP``.
    """

    decision: str
    benchmark_decision: str
    source_digest: str
    base_digest: str
    champion: str
    prepare: str
    train: str
    evaluate: str
    benchmark: str
    gate: str
    export: str
