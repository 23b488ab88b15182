"""The model card, read with the hub's own tools: each of its figures was measured."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from components.export.step import run
from components.shared.artifacts.dataset_manifest import read_manifest
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.digests import sha256_folder
from components.shared.models.model_families import FAMILIES
from components.shared.models.model_loading import load_processor
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from tests.fixtures.dataset_fixture import Page, write_dataset
from tests.fixtures.export_fixture import TEXTS, export_config, make_sources, write_evaluation, write_gate


@pytest.fixture(scope="module", autouse=True)
def _no_tracking() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


def card_of(made: Path, output: Path, **changes: Any) -> Path:
    return run(export_config(made, output, include_base_model=False, **changes)).folder / "README.md"


def row_of(evaluation: Path) -> dict[str, Any]:
    row = EvaluationReport.read(evaluation).row("adapter")
    assert row is not None
    return row.model_dump()


def test_the_hubs_tools_read_the_front_matter(made: Path, tmp_path: Path) -> None:
    path = card_of(made, tmp_path / "out", license="mit")
    metadata = metadata_load(path)
    assert metadata is not None
    expected = {
        "base_model": "base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "mit",
        "pipeline_tag": "image-text-to-text",
    }
    assert {name: metadata[name] for name in expected} == expected
    (model,) = metadata["model-index"]
    assert model["name"] == "reader"
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "reader" and results == ModelCard.load(path).data.eval_results
    digest = json.loads((made / "dataset" / "manifest.json").read_text())["digest"]
    assert {(result.dataset_split, result.dataset_revision) for result in results} == {("eval", digest)}


def test_each_figure_is_the_reports(made: Path, tmp_path: Path) -> None:
    card = ModelCard.load(card_of(made, tmp_path / "out"))
    row = row_of(made / "evaluation")
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures == {name: row[name] for name in figures} and {"cer", "wer", "rougeL", "chrf"} <= figures.keys()
    (cer,) = [result for result in card.data.eval_results if result.metric_type == "cer"]
    arguments = {"normalization": "nfkc-ws-v1", "pages": 4, "documents": 4, "interval_95": list(row["cer_interval"])}
    assert cer.metric_args == arguments


def test_a_figure_that_was_not_measured_is_left_out(made: Path, tmp_path: Path) -> None:
    """Too few documents for intervals, and a report without BERTScore."""
    row = {**row_of(made / "evaluation"), "cer_interval": None}
    digest = json.loads((made / "dataset" / "manifest.json").read_text())["digest"]
    changes: dict[str, Any] = {"rows": [row]}
    write_evaluation(tmp_path / "evaluation", digest, sha256_folder(made / "adapter"), **changes)
    card = ModelCard.load(card_of(made, tmp_path / "out", evaluation_dir=tmp_path / "evaluation"))
    results = {result.metric_type: result for result in card.data.eval_results}
    assert "bertscore" not in results and "interval_95" not in results["cer"].metric_args
    assert "| adapter | 12.50 % | – |" in card.text
    assert not re.search(r"\bNone\b|\bnan\b", card.content)


def test_the_verdict_and_the_base_stand_in_the_card(made: Path, tmp_path: Path) -> None:
    text = ModelCard.load(card_of(made, tmp_path / "one")).text
    assert "The gate" not in text and "It fits `base` and refuses another base." in text
    gate = write_gate(made, tmp_path / "gate", promoted=False)
    text = ModelCard.load(card_of(made, tmp_path / "two", gate_dir=gate)).text
    assert "The gate compared it with the base and decided: not promoted (for the test)." in text


def test_the_card_says_what_pages_it_was_trained_on_and_how_to_load_it(made: Path, tmp_path: Path) -> None:
    sources = shutil.copytree(made, tmp_path / "made")
    shutil.rmtree(sources / "dataset")
    training = [Page("one", "a", lang="en", font="Serif.ttf"), Page("two", "b", lang="fa", font="Serif.ttf")]
    digest = write_dataset(sources / "dataset", [Page(text, text) for text in TEXTS], training)
    record = TrainingRecord.read(sources / "adapter")
    record.model_copy(update={"dataset_digest": digest}).write(sources / "adapter")
    shutil.rmtree(sources / "evaluation")
    write_evaluation(sources / "evaluation", digest, sha256_folder(sources / "adapter"))
    text = ModelCard.load(card_of(sources, tmp_path / "out")).text
    assert "| languages (pages) | en (1), fa (1) |" in text and "| fonts (pages) | Serif.ttf (2) |" in text
    assert "| scripts (pages) | Latin (2) |" in text and "| lines per label | 1 |" in text
    assert text.index("<details>") < text.index("| `learning_rate` | `0.01` |") < text.index("</details>")
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    compile(code, "card", "exec")
    assert 'base = AutoModelForImageTextToText.from_pretrained("FOLDER")' in code


def test_the_cards_snippet_loads_an_adapter_whose_names_peft_would_change(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ModelCard.load(card_of(made, tmp_path / "out")).text
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    save_tiny_deepseek_ocr2(tmp_path / "base")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=FAMILIES["deepseek_ocr2"].language_modules))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    load_processor(str(tmp_path / "base")).save_pretrained(tmp_path / "adapter")

    monkeypatch.chdir(tmp_path / "adapter")
    found: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path / "base")), found)
    loaded = [weight for name, weight in found["model"].named_parameters() if "lora_B" in name]
    assert loaded and all(torch.all(weight == 1) for weight in loaded)


def test_of_an_adapter_trained_elsewhere_the_pages_are_not_known(made: Path, tmp_path: Path) -> None:
    sources = shutil.copytree(made, tmp_path / "made")
    digest = read_manifest(sources / "dataset").digest
    TrainingRecord.read(sources / "adapter").model_copy(update={"dataset_digest": "0" * 64}).write(sources / "adapter")
    shutil.rmtree(sources / "evaluation")
    write_evaluation(sources / "evaluation", digest, sha256_folder(sources / "adapter"))
    text = ModelCard.load(card_of(sources, tmp_path / "out")).text
    assert "Trained on another dataset" in text and "fonts (pages)" not in text
