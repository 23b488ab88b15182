"""``deepsynth run --dry-run``: what a run would do, with its memory and its time; nothing is run or written."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import UserError
from components.shared.programs.step_config import validated
from components.shared.telemetry.progress import duration_text
from pipelines.local.resumed_run import FailedRun
from pipelines.local.runs_folder import CHECKPOINTS_FOLDER, tracking_uri
from pipelines.planning.earlier_runs import StepTimes, longest_row, predicted_times
from pipelines.settings.parameter_text import parameter_text
from pipelines.settings.pipeline_config import SharedSettings
from pipelines.settings.step_sections import STEP_CONFIGS
from pipelines.task_side.resolution import resolve
from pipelines.task_side.step_settings import StepSettings

_GIB = 2**30
_DIGEST_CHARACTERS = 12
_TOKENS = 2048
"""Tokens per row, including the picture's: what `deepsynth estimate` assumes."""


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        settings: what its first task puts out.
        steps: the steps that would run.
        reused: those whose outputs are there, from the run to resume.
        checkpoints: the folder of the checkpoints that a training would resume from; None where there are none.
        times: predicted from earlier runs.
        memory: one line on the training's memory.
    """

    settings: StepSettings
    steps: list[str]
    reused: list[str]
    checkpoints: Path | None
    times: StepTimes
    memory: str

    def lines(self) -> list[str]:
        """Return the plan as lines for a terminal."""
        data, base = (one[:_DIGEST_CHARACTERS] for one in (self.settings.source_digest, self.settings.base_digest))
        return [
            f"{'settings:':<11}every step accepts them; data {data}, base {base}, champion: {self.settings.champion}",
            f"{'would run:':<11}{', '.join(self.steps)}{' if the gate promotes' if 'export' in self.steps else ''}",
            f"{'reused:':<11}{self._reused()}",
            f"{'memory:':<11}{self.memory}",
            f"{'time:':<11}{self._time()}",
        ]

    def _reused(self) -> str:
        parts = [*self.reused, *([f"the newest checkpoint in {self.checkpoints}"] if self.checkpoints else [])]
        return ", ".join(parts) or "nothing"

    def _time(self) -> str:
        if not self.times.seconds:
            return "not known: no earlier run in this folder has the same settings; a training tells it after step 4"
        parts = ", ".join(f"{step} {duration_text(seconds)}" for step, seconds in self.times.seconds.items())
        parts += f", as in {', '.join(self.times.runs)}"
        if self.times.unknown:
            return f"{parts}; not known, as no earlier run had these settings: {', '.join(self.times.unknown)}"
        return f"about {duration_text(sum(self.times.seconds.values()))}: {parts}"


def planned_run(config: SharedSettings, runs_dir: Path, run_id: str, resumed: FailedRun | None) -> RunPlan:
    """Check a run as its first task does, and return what it would do.

    Raises:
        UserError: the run would end with this error.
    """
    os.environ.setdefault("MLFLOW_TRACKING_URI", tracking_uri(runs_dir))  # the champion is looked up there
    settings = resolve(parameter_text(config.model_dump(mode="json", exclude_unset=True)), {})
    reused = resumed.finished_steps() if resumed else []
    steps = [step for step in STEP_CONFIGS if step not in (*reused, *config.skip)]
    checkpoints = runs_dir / CHECKPOINTS_FOLDER / run_id
    goes_on = resumed is not None and "train" in steps and any(checkpoints.rglob("checkpoint-*"))
    return RunPlan(
        settings=settings,
        steps=steps,
        reused=reused,
        checkpoints=checkpoints if goes_on else None,
        times=predicted_times(config, runs_dir, steps),
        memory=training_memory(config, longest_row(config, runs_dir)) if "train" in steps else "nothing is trained",
    )


def training_memory(config: SharedSettings, known_tokens: int | None = None, *, runs_here: bool = True) -> str:
    """Return one line on the training's memory; no page is drawn yet, so the settings tell their size.

    Args:
        config: the run's settings.
        known_tokens: tokens of the longest row, from an earlier run.
        runs_here: False for a run on a cluster.
    """
    from transformers.utils import logging as transformers_logging

    from components.prepare.config import PrepareConfig
    from components.shared.models.unsloth_inference import obstacle_to_unsloth
    from components.train.config import TrainConfig
    from components.train.estimate.memory_estimate import Pages, estimate_memory

    transformers_logging.set_verbosity_error()
    train: Any = validated(TrainConfig, config.step_settings("train") | _folders(TrainConfig), "train")
    prepare: Any = validated(PrepareConfig, config.step_settings("prepare") | _folders(PrepareConfig), "prepare")
    width, height = _largest_page(prepare)
    tokens = known_tokens or min(_TOKENS, train.max_length)
    obstacle = runs_here and obstacle_to_unsloth()  # a cluster's GPU image has it
    backend = "standard" if train.backend == "standard" or obstacle else "unsloth"
    try:
        found = estimate_memory(train, Pages(width, height, tokens), backend)
    except UserError as error:
        return f"no estimate: {error}"
    peak = max(found.peak_bytes, found.loading_peak_bytes) / _GIB
    where = "the longest of the last run" if known_tokens else "assumed: deepsynth estimate takes --tokens"
    pages = f"{train.per_device_train_batch_size} pages of {width}x{height} px and {tokens} tokens ({where})"
    return f"about {peak:.1f} GiB on a GPU, {backend} backend, {pages}"


def _largest_page(prepare: Any) -> tuple[int, int]:
    """Return the size in pixels of the largest page that is drawn; a free height is that of the most lines."""
    _, most_lines = prepare.line_limits() or (1, 1)
    free = round(most_lines * max(prepare.font_sizes) * prepare.line_spacing[1]) + 2 * prepare.margin[1]
    sizes = [(width, height or free) for width, height in prepare.page_sizes()]
    return max(sizes, key=lambda size: size[0] * size[1])


def _folders(model: Any) -> dict[str, str]:
    return {name: "." for name in ("dataset_dir", "output_dir") if name in model.model_fields}
