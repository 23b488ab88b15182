"""Compile the pipeline for KFP's local runners."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def compiled_without_unset_parameters(package: Path, prepare_partitions: int) -> Callable[..., Any]:
    """Compile the pipeline into ``package`` and load it without the optional parameters that have no default.

    KFP 2.17's local runner cannot pass None to a task; a task without the parameter gets None.
    """
    from kfp.compiler import Compiler
    from kfp.components import load_component_from_text

    from pipelines.definition.finetune import finetune_pipeline

    # One at a time: a drawing task already uses all cores.
    Compiler().compile(finetune_pipeline(prepare_partitions, drawn_at_once=1), str(package))
    spec = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    holders = [spec["root"], *spec["components"].values()]
    for inputs in (holder.get("inputDefinitions", {}).get("parameters", {}) for holder in holders):
        for name in [name for name, value in inputs.items() if _may_be_unset(value)]:
            del inputs[name]
    for task in spec["root"]["dag"]["tasks"].values():
        known = spec["components"][task["componentRef"]["name"]].get("inputDefinitions", {}).get("parameters", {})
        given = task.get("inputs", {}).get("parameters", {})
        for name in set(given) - set(known):
            del given[name]
    pipeline: Callable[..., Any] = load_component_from_text(yaml.safe_dump(spec))
    return pipeline


def _may_be_unset(parameter: dict[str, Any]) -> bool:
    if parameter["parameterType"] == "TASK_FINAL_STATUS":  # KFP sets it for an exit task
        return False
    return bool(parameter.get("isOptional")) and "defaultValue" not in parameter
