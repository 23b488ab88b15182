"""The whole pipeline's configuration: a section per step, and the settings that the steps share, once at the top."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model

from components.shared.models.base_models import base_model_location
from components.shared.programs.step_config import Seed, StepConfig, parse_config_text, read_config_file, validated
from components.train.presets import without_preset_settings
from pipelines.settings.step_sections import DESCRIBED, FOLDER_FIELDS, SHARED_FIELDS, STEP_CONFIGS, section_model

QUICKSTART_FILE = Path(__file__).with_name("quickstart.yaml")
_PRESET = "train.preset"
_TRAIN_SETTINGS_THAT_BENCHMARK_CHOOSES = {"backend", "max_steps", "logging_steps"}


class SharedSettings(StepConfig):
    """The settings that more than one step uses."""

    source: str = "python-docs"
    """python-docs (built in), a folder or a file of .txt, .md, .jsonl, .csv, .tsv, .parquet, .pdf or .tar (WebDataset),
    a pattern such as shards/{000..009}.tar, scans with their texts beside them as images:FOLDER, or a Hugging Face
    dataset as hf:OWNER/NAME"""
    base_model: str = "tiny-base"
    """a model folder, a hub id such as deepseek-community/DeepSeek-OCR-2, or tiny-base (bundled)"""
    revision: str | None = None
    """hub models: the commit, tag or branch"""
    trust_remote_code: bool = False
    """run code that comes with the model; only with a pinned revision"""
    seed: Seed = 0
    """the seed of splits, looks, data order, adapter weights and bootstrap"""
    skip: tuple[Literal["benchmark"], ...] = ()
    """steps to leave out: [benchmark]; the other steps need each other"""

    def step_settings(self, step: str) -> dict[str, Any]:
        """Return the settings of one step, without its folders, as JSON values.

        A field whose default depends on the machine, such as a number of workers, is left out unless it was given:
        the step's own machine decides.
        """
        model = STEP_CONFIGS[step]
        shared = {name: getattr(self, name) for name in SHARED_FIELDS if name in model.model_fields}
        section: StepConfig = getattr(self, step)
        values = section.model_dump(mode="json")
        for name, info in type(section).model_fields.items():
            if info.default_factory is not None and name not in section.model_fields_set:
                del values[name]
        if step == "benchmark":
            train = self.step_settings("train")
            values["train"] = {
                name: value
                for name, value in train.items()
                if name not in _TRAIN_SETTINGS_THAT_BENCHMARK_CHOOSES and name not in ("base_model", *FOLDER_FIELDS)
            }
        return shared | values


PipelineConfig = create_model(
    "PipelineConfig",
    __base__=SharedSettings,
    __doc__="Everything that a run of the pipeline can be told.",
    __cls_kwargs__=DESCRIBED,
    **{
        step: (model := section_model(step), Field(default_factory=model, description=model.__doc__))
        for step in STEP_CONFIGS
    },  # type: ignore[call-overload]
)


def pipeline_config(
    values: dict[str, Any], where: str, *, runs_here: bool = True, checkpoints: bool = False
) -> SharedSettings:
    """Return ``values`` as a ``PipelineConfig`` that every step has accepted.

    Args:
        values: the settings, file and overrides merged.
        where: the file or the options, for errors.
        runs_here: look for the base model's folder; a cluster has its own folders.
        checkpoints: train gets a folder for checkpoints where it runs.

    Raises:
        UserError: a key is unknown or a value is wrong, for the pipeline or for a step; or no such base model folder.
    """
    config: SharedSettings = validated(PipelineConfig, values, where)
    for step, model in STEP_CONFIGS.items():
        settings = config.step_settings(step) | {name: "." for name in FOLDER_FIELDS if name in model.model_fields}
        if step == "train" and checkpoints:
            settings["checkpoint_dir"] = settings["checkpoint_dir"] or "."
        validated(model, settings, f"{where}: {step}")
    if runs_here:
        base_model_location(config.base_model)
    return config


def quickstart_values() -> dict[str, Any]:
    """Return the bundled preset, which runs if no configuration is given."""
    return parse_config_text(QUICKSTART_FILE.read_text(encoding="utf-8"), QUICKSTART_FILE.name)


def config_values(path: Path | None) -> tuple[dict[str, Any], str]:
    """Return a configuration file's values, or the quickstart's, and the name to call them in errors."""
    if path is None:
        return quickstart_values(), QUICKSTART_FILE.name
    return read_config_file(path), str(path)


def with_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with dotted keys such as ``train.learning_rate`` set; None is a value like any other.

    ``train.preset`` also replaces values that ``values`` give for the preset's settings.
    """
    result = json.loads(json.dumps(values, default=str))
    train = result.get("train")
    if _PRESET in overrides and isinstance(train, dict):
        result["train"] = without_preset_settings(train, overrides[_PRESET])
    for key, value in overrides.items():
        *sections, name = key.split(".")
        target = result
        for section in sections:
            inner = target.get(section)
            target[section] = inner if isinstance(inner, dict) else {}
            target = target[section]
        target[name] = value
    return dict(result)
