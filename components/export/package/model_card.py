"""``README.md``: the model card, filled only from what was measured."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.export.config import ExportConfig
from components.export.package.example_page import ExamplePage
from components.export.package.inputs import PackageSources
from components.export.package.package_layout import BASE_FOLDER, EXAMPLE_FILE, MERGED_FOLDER
from components.export.package.trained_pages import trained_pages
from components.export.servable.serving_files import Serving
from components.export.servable.vllm_commands import commands
from components.shared.artifacts.evaluation_report import CANDIDATE, EvaluationReport, ReportRow
from components.shared.artifacts.markdown import markdown_block, markdown_code, markdown_text
from components.shared.artifacts.package_files import PACKAGE_SETTINGS

_TEMPLATE = "model_card.md.jinja"
_NOT_PROMOTED = "not-promoted"
_PIPELINE_TAG = "image-text-to-text"
_MEASURED = {
    "cer": "Character error rate",
    "wer": "Word error rate",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "bertscore": "BERTScore F1",
    "exact_page_rate": "Pages without any error",
    "loop_rate": "Pages that end in a repetition loop",
}


def write_model_card(
    config: ExportConfig,
    sources: PackageSources,
    example: ExamplePage | None,
    path: Path,
    serving: Serving | None = None,
) -> None:
    """Write the card and read it back: a card that the hub cannot parse is never packed.

    ``serving`` is how vLLM serves the package; None if the export does not ask for it.

    Raises:
        ValueError: the parsed front matter differs from what was written.
    """
    data = _front_matter(config, sources)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown: finalize escapes
        finalize=lambda value: value if isinstance(value, Markup) else markdown_text(value),
    )
    environment.filters["code"] = lambda value: Markup(markdown_code(value))
    environment.filters["block"] = lambda value: Markup(markdown_block(value))
    environment.filters["percent"] = lambda rate: f"{100 * rate:.2f} %"
    body = environment.get_template(_TEMPLATE).render(
        name=sources.name,
        sources=sources,
        report=sources.report,
        rows=sources.report.rows,
        comparison=sources.report.comparison("base"),
        training=sources.training,
        settings=_settings(sources.training.config),
        manifest=sources.manifest,
        verdict=sources.verdict,
        example=example,
        example_file=EXAMPLE_FILE,
        letters=json.loads((path.parent / PACKAGE_SETTINGS).read_text(encoding="utf-8"))["letters"],
        serving=serving,
        vllm_commands=Markup(_vllm_commands(config, sources, serving)) if serving else None,
        base_argument=Markup(_base_argument(config, sources)),
        pages=trained_pages(config.dataset_dir, sources.manifest) if sources.trained_on_this_dataset else None,
    )
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{body}", encoding="utf-8")
    if ModelCard.load(path).data.to_dict() != data.to_dict():
        raise ValueError(f"{path.name}: the front matter does not read back as it was written")


def _front_matter(config: ExportConfig, sources: PackageSources) -> ModelCardData:
    dataset = sources.report.dataset
    row = next(row for row in sources.report.rows if row.name == CANDIDATE)
    results = [
        EvalResult(
            task_type=_PIPELINE_TAG,
            dataset_type="webdataset",
            dataset_name=f"{sources.manifest.config.get('source', 'pages')} ({dataset.pages} pages)",
            dataset_split=dataset.split,
            dataset_revision=dataset.digest,
            metric_type=metric,
            metric_name=name,
            metric_value=round(getattr(row, metric), 6),
            metric_args=_arguments(sources.report, row, metric),
        )
        for metric, name in _MEASURED.items()
        if getattr(row, metric) is not None
    ]
    return ModelCardData(
        base_model=sources.base_name,
        base_model_relation="adapter" if sources.kind == "adapter" else "finetune",
        library_name="peft" if sources.kind == "adapter" else "transformers",
        pipeline_tag=_PIPELINE_TAG,
        license=config.license,
        tags=["ocr", "deepsynth-pipelines", *(["lora"] if sources.kind == "adapter" else []), *_verdict_tags(sources)],
        model_name=sources.name,
        eval_results=results,
    )


def _verdict_tags(sources: PackageSources) -> list[str]:
    return [_NOT_PROMOTED] if sources.verdict and not sources.verdict.promoted else []


def _base_argument(config: ExportConfig, sources: PackageSources) -> str:
    """Return the arguments of ``from_pretrained`` for the base, as Python code."""
    if sources.include_base:
        return '"base_model"'
    if sources.base_is_folder:
        return '"FOLDER"'
    revision = f", revision={json.dumps(sources.base.revision)}" if sources.base.revision else ""
    return f"{json.dumps(config.base_model)}{revision}"


def _vllm_commands(config: ExportConfig, sources: PackageSources, serving: Serving) -> str:
    base = BASE_FOLDER if sources.include_base else "BASE" if sources.base_is_folder else sources.base_name
    revision = None if sources.include_base else sources.base.revision
    whole_model = f"../{MERGED_FOLDER}" if config.merge else "."
    return commands(serving, name=sources.name, base=base, revision=revision, whole_model=whole_model)


def _arguments(report: EvaluationReport, row: ReportRow, metric: str) -> dict[str, Any]:
    """Return how a figure was measured, and its interval if it has one."""
    interval = getattr(row, f"{metric}_interval", None)
    bounds = {"interval_95": [round(bound, 6) for bound in interval]} if interval else {}
    return {"normalization": report.normalization, "pages": row.pages, "documents": row.documents, **bounds}


def _settings(settings: dict[str, Any]) -> dict[str, str]:
    """Return the training settings as text, without the paths of the machine that trained."""
    paths = ("dataset_dir", "output_dir", "base_model")
    return {name: json.dumps(value) for name, value in settings.items() if name not in paths and value is not None}
