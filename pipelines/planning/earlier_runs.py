"""How long a run will take, from this machine's earlier runs with the same settings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from components.shared.artifacts.run_summary import RunSummary
from components.shared.artifacts.training_record import TrainingRecord, training_record
from components.shared.errors import UserError
from components.shared.programs.step_config import read_config_file
from pipelines.local.runs_folder import CONFIG_FILE, FOLDERS
from pipelines.settings.pipeline_config import SharedSettings, pipeline_config
from pipelines.settings.step_sections import STEP_CONFIGS

_INPUTS = {
    "train": ("prepare",),
    "evaluate": ("prepare",),
    "benchmark": ("prepare",),
    "export": ("evaluate",),
}
"""Steps whose settings decide how much another step has to do."""
_NOT_TIMED = {
    *("learning_rate", "seed", "weight_decay", "warmup_ratio", "lr_scheduler_type", "max_grad_norm"),
    *("lora_alpha", "lora_dropout", "max_steps"),
    "workers",  # a run's config.yaml has the number that this machine chose
}
"""Settings that leave the time of a step, or of one step of a training, as it is."""


@dataclass(frozen=True)
class StepTimes:
    """The predicted seconds of a run's steps.

    Attributes:
        seconds: by step.
        runs: the runs that they are from.
        unknown: steps that no earlier run did with the same settings.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _EarlierRun:
    name: str
    settings: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    folder: Path


def predicted_times(config: SharedSettings, runs_dir: Path, steps: list[str]) -> StepTimes:
    """Return the seconds of ``steps`` in the newest finished run that did each with the same settings.

    Two settings count as the same if they leave the work as it is: a training with another learning rate takes as long,
    and one with another ``max_steps`` as many of the measured optimizer steps.
    """
    wanted = _settings(config)
    runs = list(_earlier_runs(runs_dir))
    found = StepTimes()
    for step in steps:
        match = next((run for run in runs if _does_the_same(step, run.settings, wanted)), None)
        seconds = _seconds(step, match, wanted["train"].get("max_steps")) if match else None
        if match is None or seconds is None:
            found.unknown.append(step)
            continue
        found.seconds[step] = seconds
        if match.name not in found.runs:
            found.runs.append(match.name)
    return found


def longest_row(config: SharedSettings, runs_dir: Path) -> int | None:
    """Return the tokens of the longest padded row in the newest training on such pages; None where there is none."""
    wanted = _settings(config)
    for run in _earlier_runs(runs_dir):
        record = _record(run)
        same = _timed("prepare", run.settings) == _timed("prepare", wanted) and _model(run.settings) == _model(wanted)
        if same and record and record.samples_per_step:
            rows = zip(record.padded_tokens_per_step, record.samples_per_step, strict=True)
            return max(padded // samples for padded, samples in rows if samples)
    return None


def _record(run: _EarlierRun) -> TrainingRecord | None:
    """Return a run's training record; None for one that is gone, damaged, or of another version."""
    try:
        return training_record(run.folder / FOLDERS["train"])
    except UserError:
        return None


def _model(settings: dict[str, dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(settings["train"][name] for name in ("base_model", "revision", "max_length"))


def _earlier_runs(runs_dir: Path) -> Iterator[_EarlierRun]:
    """Yield the finished runs, the newest first; those of another version of the product are left out."""
    files = sorted(runs_dir.glob(f"*/{RunSummary.FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for file in files:
        try:
            summary = RunSummary.read(file.parent)
            values = read_config_file(file.parent / CONFIG_FILE)
            config = pipeline_config(values, str(file.parent / CONFIG_FILE), runs_here=False)
        except UserError:
            continue
        yield _EarlierRun(summary.run_id, _settings(config), summary.seconds_per_step, file.parent)


def _settings(config: SharedSettings) -> dict[str, dict[str, Any]]:
    return {step: config.step_settings(step) for step in STEP_CONFIGS}


def _does_the_same(step: str, one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> bool:
    return all(_timed(name, one) == _timed(name, other) for name in (step, *_INPUTS.get(step, ())))


def _timed(step: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    values = {name: value for name, value in settings[step].items() if name not in _NOT_TIMED}
    if step == "train" and settings[step].get("max_steps") is None:
        values["max_steps"] = None  # epochs: as many steps as the data has
    if step == "benchmark":
        values["max_steps"] = settings[step].get("max_steps")
        values["train"] = {name: value for name, value in values["train"].items() if name not in _NOT_TIMED}
    return values


def _seconds(step: str, run: _EarlierRun, max_steps: int | None) -> float | None:
    seconds = run.seconds.get(step)
    record = _record(run) if step == "train" and max_steps else None
    if seconds is None or record is None or not record.step_seconds or max_steps is None:
        return seconds
    made = [sum(pair) for pair in zip(record.step_seconds, record.data_wait_seconds, strict=False)]
    return max(0.0, seconds - sum(made)) + max_steps * median(made)
