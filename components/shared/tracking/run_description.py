"""The description of a pipeline run in MLflow: a Markdown page from the figures and tags of its parent run."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from components.shared.artifacts.markdown import markdown_code, markdown_text
from components.shared.tracking.headline import READERS

_COLUMNS = {"cer": "CER", "wer": "WER", "rougeL": "ROUGE-L", "bleu": "BLEU", "loop_rate": "loop rate"}
_RATES = ("cer", "wer", "loop_rate")
REPORT = "report.html"
REASON_TAG = "deepsynth.decision.reason"
"""Why a run trains nothing, in one sentence."""


def description(parent: Any, children: Sequence[Any], cached: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the page: the table of models, the verdict, the training, and links to the report and the package.

    Args:
        parent: the MLflow run of the pipeline.
        children: its nested runs, one per step.
        cached: step -> the run of an earlier pipeline run that did it.
    """
    metrics, tags = parent.data.metrics, parent.data.tags
    parts = [_page(tags), markdown_text(tags.get(REASON_TAG, "")), _models(metrics), _verdict(metrics, tags)]
    parts += [_training(metrics), _links(parent, children, cached)]
    return "\n\n".join(part for part in parts if part)


def _page(tags: Mapping[str, str]) -> str:
    """Return the link to the pipeline run's page; a folder's address is shown as text, since browsers block it."""
    page = tags.get("kfp.run_page", "")
    if re.match(r"https?://[^\s()<>]+$", page):
        return f"KFP run [{markdown_text(tags.get('kfp.run_name', page))}]({page})"
    return f"Run folder: {markdown_code(page)}" if page else ""


def _models(metrics: Mapping[str, float]) -> str:
    rows = [reader for reader in READERS if f"{reader}_cer" in metrics]
    if not rows:
        return ""
    lines = [f"| model | {' | '.join(_COLUMNS.values())} |", f"| --- {'| --- ' * len(_COLUMNS)}|"]
    lines += [f"| {reader} | {' | '.join(_cell(metrics, reader, name) for name in _COLUMNS)} |" for reader in rows]
    return "\n".join([*lines, "", "On the held-out pages, with 95 % intervals."])


def _cell(metrics: Mapping[str, float], reader: str, name: str) -> str:
    key = f"{reader}_{name}"
    if key not in metrics:
        return "–"
    shown = [f"{metrics[one]:.1%}" if name in _RATES else f"{metrics[one]:.3g}" for one in _known(metrics, key)]
    return shown[0] if len(shown) == 1 else f"{shown[0]} ({shown[1]} – {shown[2]})"


def _known(metrics: Mapping[str, float], key: str) -> list[str]:
    return [one for one in (key, f"{key}_low", f"{key}_high") if one in metrics]


def _verdict(metrics: Mapping[str, float], tags: Mapping[str, str]) -> str:
    if "gate" not in tags:
        return ""
    return f"**{markdown_text(tags['gate'])}**: {markdown_text(tags.get('gate.reason', ''))}"


def _training(metrics: Mapping[str, float]) -> str:
    if "train_seconds" not in metrics:
        return ""
    text = f"Training: {metrics.get('train_steps', 0):.0f} steps in {metrics['train_seconds']:.0f} s"
    if "train_samples_per_second" in metrics:
        text += f", {metrics['train_samples_per_second']:.2f} pages/s"
    return f"{text}."


def _links(parent: Any, children: Sequence[Any], cached: Mapping[str, Any]) -> str:
    lines = []
    for child in [*([cached["evaluate"]] if "evaluate" in cached else []), *children]:
        if child.data.tags.get("deepsynth.step") == "evaluate":
            lines = [f"- [report of the evaluation]({_address(child)}/artifacts/{REPORT})"]
    lines += [
        f"- {step} was cached by KFP: [{markdown_text(run.info.run_name or run.info.run_id)}]({_address(run)}) did it"
        for step, run in cached.items()
    ]
    if registered := re.fullmatch(r"(.+) version (\d+)", parent.data.tags.get("registered", "")):
        name, version = registered.groups()
        page = f"#/models/{quote(name, safe='')}/versions/{version}"
        lines.append(f"- registered: [{markdown_text(name)} version {version}]({page})")
    return "\n".join(lines)


def _address(run: Any) -> str:
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
