"""The three tasks that prepare the dataset when its pages are drawn in partitions, each on its own machine.

The settings are stored in the selection. KFP 2.17's local runner replaces every parameter that a loop's tasks get from
an earlier task with the loop's item; and this way all partitions are drawn with the same settings.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.prepare.config import PrepareConfig
from components.shared.programs.step_config import parse_config_text, read_config_file, validated
from pipelines.task_side.artifact_metadata import partition_folders
from pipelines.task_side.missing_artifacts import named_missing_files
from pipelines.task_side.task_entry import task

SETTINGS_FILE = "settings.json"
_STEP = "prepare"


def select_documents(config: str, selection_dir: str) -> None:
    """Select the documents with the prepare step's settings in ``config`` (JSON)."""
    with task(_STEP, "select documents"):
        from components.prepare.stages import select

        values = parse_config_text(config, _STEP)
        select(validated(PrepareConfig, values | {"output_dir": selection_dir}, _STEP), Path(selection_dir))
        (Path(selection_dir) / SETTINGS_FILE).write_text(json.dumps(values), encoding="utf-8")


def draw_pages(selection_dir: str, pages_dir: str, partition: int, partitions: int) -> None:
    """Draw the pages of partition 0 to ``partitions`` - 1 of the selected documents."""
    part = f"draw partition {partition + 1} of {partitions}"
    with task(_STEP, part), named_missing_files({"selection": selection_dir}):
        from components.prepare.stages import draw

        draw(_settings(selection_dir, pages_dir), Path(selection_dir), Path(pages_dir), partition, partitions)


def assemble_dataset(selection_dir: str, pages: Sequence[Any], dataset_dir: str) -> None:
    """Make the dataset from the pages of all partitions, KFP artifacts that ``draw_pages`` made."""
    # Resolved: the local runner may put a link into the path that is gone when the run has ended.
    inputs = {"selection": selection_dir} | {f"pages {number}": one.path for number, one in enumerate(pages)}
    with (
        task(_STEP, "assemble the dataset", output_dir=str(Path(dataset_dir).resolve())),
        named_missing_files(inputs),
    ):
        from components.prepare.stages import assemble

        folders = partition_folders(pages)
        assemble(_settings(selection_dir, dataset_dir), Path(selection_dir), folders, Path(dataset_dir))


def _settings(selection_dir: str, output_dir: str) -> PrepareConfig:
    values = read_config_file(Path(selection_dir) / SETTINGS_FILE)
    return validated(PrepareConfig, values | {"output_dir": output_dir}, _STEP)
