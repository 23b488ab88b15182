"""The package's files: adapter, processor, base model, script and requirements."""

import importlib.metadata
import shutil
from dataclasses import asdict
from pathlib import Path

from transformers import ProcessorMixin

from components.export.config import ExportConfig
from components.export.package.example_page import ExamplePage
from components.export.package.inputs import PackageSources, evaluated_family, evaluated_rule
from components.export.package.mlflow_files import MODEL_CODE, write_mlflow_files
from components.export.package.model_files import copy_base_files, copy_model_files
from components.export.package.package_layout import (
    ADAPTER_CONFIG,
    BASE_FOLDER,
    EVIDENCE_FOLDER,
    EXAMPLE_FILE,
    restored_adapter_config,
    write_json,
)
from components.export.package.trained_letters import trained_letters
from components.export.servable.serving_files import Serving, write_serving_files
from components.shared import page_reader
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.package_files import PACKAGE_SETTINGS
from components.shared.datasets import letter_height
from components.shared.models import deepseek_ocr
from components.shared.models.adapter_loading import load_fine_tuned_processor
from components.shared.models.hub import hub_is_reachable
from components.shared.models.model_loading import model_type_of
from components.shared.models.processor_packages import used_packages
from components.shared.reading.image_settings import backend_of
from components.shared.reading.image_text_inputs import prompt_text, text_options

_REQUIREMENTS = ("torch", "transformers", "peft", "pillow", "numpy")
_SCRIPT = Path(__file__).parent / "scripts" / "inference.py"
_MLFLOW_SCRIPT = _SCRIPT.with_name(MODEL_CODE)
_READER = Path(page_reader.__file__).parent
_LETTER_HEIGHT = Path(letter_height.__file__)
_OWN_CLASSES = {"deepseek_vl_v2": Path(str(deepseek_ocr.__file__)).parent}
"""By ``model_type``, the folders with the classes that transformers does not have."""


def write_package_files(
    config: ExportConfig,
    sources: PackageSources,
    instruction: str | None,
    example: ExamplePage | None,
    folder: Path,
) -> Serving | None:
    """Fill ``folder`` with everything except README.md and lineage.json, and return how vLLM serves it, if it does.

    ``instruction`` is the pages' own prompt; None uses the model family's.
    """
    copy_model_files(config.adapter_dir, folder, with_code=config.trust_remote_code)
    processor = load_fine_tuned_processor(
        config.base_model, config.adapter_dir, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    if not (folder / "tokenizer_config.json").is_file():
        processor.save_pretrained(folder)
    if sources.include_base:
        _copy_base(config, sources, folder / BASE_FOLDER)
    base_model = _base_reference(config, sources)
    if sources.kind == "adapter":
        _point_at_base(folder / ADAPTER_CONFIG, base_model or Path(sources.base_location).name, sources.base.revision)
    family = evaluated_family(config, sources, processor)
    prompt = prompt_text(processor, family, instruction)
    rule = evaluated_rule(sources, processor, family)
    calibration, lines = sources.report.calibration, sources.report.line_calibration
    letters = trained_letters(config, sources, processor, family)
    model_type = model_type_of(config.base_model, config.revision, config.trust_remote_code)
    inference = {
        "kind": sources.kind,
        "base_model": base_model,
        "base_in_package": sources.include_base,
        "revision": None if sources.include_base else sources.base.revision,
        "base": sources.base.as_json() if sources.kind == "adapter" else None,
        "trust_remote_code": config.trust_remote_code,
        "model_type": model_type,
        "prompt": prompt,
        "instruction": instruction,
        "text_options": text_options(processor, [prompt]),
        "image_options": family.image_options,
        "image_backend": backend_of(processor),
        "max_new_tokens": sources.packaged_tokens,
        "no_repeat_ngrams": asdict(rule) if rule else None,
        "calibration": calibration.model_dump() if calibration else None,
        "line_calibration": lines.model_dump() if lines else None,
        "letters": letters.as_json() if letters else None,
        "dtype": {"cuda": "bfloat16", "cpu": "float32"},  # components.shared.models.model_loading.default_dtype
    }
    write_json(folder / PACKAGE_SETTINGS, inference)
    _copy_evidence(config, folder / EVIDENCE_FOLDER)
    for script in (_SCRIPT, _MLFLOW_SCRIPT):
        shutil.copyfile(script, folder / script.name)
    _copy_reader(folder / _READER.name, model_type)
    (folder / "requirements.txt").write_text(requirements(sources, processor), encoding="utf-8")
    if example:
        (folder / EXAMPLE_FILE).write_bytes(example.png)
    write_mlflow_files(folder, example.png if example else None)
    return write_serving_files(
        config, kind=sources.kind, prompt=instruction or family.prompt, processor=processor, package=folder
    )


def _copy_reader(folder: Path, model_type: str) -> None:
    folder.mkdir()
    for module in [*sorted(_READER.glob("*.py")), _LETTER_HEIGHT]:
        shutil.copyfile(module, folder / module.name)
    if classes := _OWN_CLASSES.get(model_type):
        shutil.copytree(classes, folder / classes.name, ignore=shutil.ignore_patterns("__pycache__"))


def _copy_evidence(config: ExportConfig, folder: Path) -> None:
    folder.mkdir()
    shutil.copyfile(config.dataset_dir / MANIFEST_FILE, folder / MANIFEST_FILE)
    shutil.copyfile(config.evaluation_dir / EvaluationReport.FILE, folder / EvaluationReport.FILE)
    if config.gate_dir is not None:
        shutil.copyfile(config.gate_dir / GateVerdict.FILE, folder / GateVerdict.FILE)


def requirements(sources: PackageSources, processor: ProcessorMixin) -> str:
    """Return pins of what inference.py and the processor import, at the versions installed here."""
    names = [name for name in _REQUIREMENTS if name != "peft" or sources.kind == "adapter"]
    names += used_packages(processor)
    # A local build such as 2.13.0+cpu is on no index; its release is.
    return "".join(f"{name}=={importlib.metadata.version(name).partition('+')[0]}\n" for name in names)


def _base_reference(config: ExportConfig, sources: PackageSources) -> str | None:
    """Return the folder in the package or the hub id; None for a whole model, and for a base that is not packed."""
    if sources.kind == "model":
        return None
    if sources.include_base:
        return BASE_FOLDER
    return None if sources.base_is_folder else config.base_model


def _copy_base(config: ExportConfig, sources: PackageSources, target: Path) -> None:
    location = sources.base_location
    if not sources.base_is_folder:
        from huggingface_hub import snapshot_download

        location = snapshot_download(location, revision=config.revision, local_files_only=not hub_is_reachable())
    copy_base_files(Path(location), target, with_code=config.trust_remote_code)


def _point_at_base(path: Path, base_model: str, revision: str | None) -> None:
    changed = {"base_model_name_or_path": base_model, "revision": None if base_model == BASE_FOLDER else revision}
    path.write_bytes(restored_adapter_config(path.read_bytes(), changed))
