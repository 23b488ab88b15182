"""The run's first task refuses settings that gate or export would refuse hours later, before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.shared.errors import UserError
from pipelines.command_line import app
from pipelines.planning.machine_checks import cuda_devices
from pipelines.task_side.resolution import resolve


@pytest.fixture
def source(tmp_path: Path) -> str:
    return documents(tmp_path / "texts", 200)


def documents(folder: Path, count: int) -> str:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03d}.txt").write_text(f"Text number {number}.")
    return str(folder)


def resolved(source: str, **sections: dict[str, Any]) -> dict[str, Any]:
    return resolve(json.dumps({"source": source} | sections), {})._asdict()


def test_an_upload_without_a_token_is_refused_before_anything_runs(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert json.loads(resolved(source)["export"])["push_to_hub"] is None
    with pytest.raises(UserError, match="HF_TOKEN: no token"):
        resolved(source, export={"push_to_hub": "me/reader"})
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    settings = resolved(source, export={"push_to_hub": "me/reader"})
    assert json.loads(settings["export"])["push_to_hub"] == "me/reader"
    assert "hf_secret" not in str(settings)


def test_an_adapter_that_vllm_does_not_serve_is_refused_before_anything_runs(source: str) -> None:
    with pytest.raises(UserError, match=r"export\.serving: vLLM serves no LoRA adapter of the family paddleocr_vl"):
        resolved(source, export={"serving": ["vllm"]})
    settings = json.loads(resolved(source, export={"serving": ["vllm"], "merge": True})["export"])
    assert settings["serving"] == ["vllm"]


@pytest.mark.parametrize(
    ("model_type", "evaluate", "said"),
    [
        ("deepseek_vl_v2", {}, r"evaluate\.max_crops by default 9: vLLM's DeepseekOCRForCausalLM .*max_crops 6"),
        ("deepseek_ocr2", {"image_size": 1024}, r"evaluate\.image_size 1024: vLLM's DeepseekOCR2ForCausalLM"),
        ("deepseek_ocr2", {"crop_mode": False}, r"evaluate\.crop_mode False"),
    ],
)
def test_an_evaluation_of_other_views_than_vllms_is_refused_before_anything_runs(
    model_type: str, evaluate: dict[str, Any], said: str, source: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    config = {"model_type": model_type, "architectures": ["DeepseekOCRForCausalLM"]}
    (base / "config.json").write_text(json.dumps(config))
    (base / "model.safetensors").touch()
    served = {"base_model": str(base), "export": {"serving": ["vllm"]}}
    with pytest.raises(UserError, match=said):
        resolved(source, evaluate=evaluate, **served)
    seen_alike: dict[str, Any] = {"max_crops": 6, "base_size": 1024}
    resolved(source, evaluate=seen_alike, **served)
    for name in ("finetune_vision_layers", "adapt_experts"):
        train = {name: True, "lora_dropout": 0}
        with pytest.raises(UserError, match=rf"with train\.{name}: vLLM's .* would read without it; set export\.merge"):
            resolved(source, evaluate=seen_alike, train=train, **served)
        merged = {**served, "export": {"serving": ["vllm"], "merge": True}}
        resolved(source, evaluate=seen_alike, train=train, **merged)


def test_a_gate_over_the_trainings_own_pages_is_refused_before_anything_runs(source: str) -> None:
    with pytest.raises(UserError, match=r"evaluate\.split 'train': the gate promotes nothing"):
        resolved(source, evaluate={"split": "train"})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # what is prepared
    "no page held out": ({"prepare": {"eval_fraction": 0}}, r"prepare\.eval_fraction 0: no page is held out"),
    "one document allowed": ({"prepare": {"max_documents": 1}}, r"prepare\.max_documents 1: one document cannot be"),
    "one document there": ({"source": "one"}, r"source .*/one: one document cannot be split"),
    "one PDF": ({"source": "one.pdf"}, r"source .*/one\.pdf: one document cannot be split"),
    "one row": ({"source": "one.jsonl"}, r"source .*/one\.jsonl: one document cannot be split"),
    "one row below a header": ({"source": "one.csv"}, r"source .*/one\.csv: one document cannot be split"),
    "one scan": ({"source": "images:scans"}, r"source images:.*/scans: one document cannot be split"),
    "nothing to read": ({"source": "empty"}, r"source .*/empty: no document in it can be read"),
    "no such source": ({"source": "nowhere"}, r"source '.*nowhere': no such file or folder"),
    "an empty holdout": ({"prepare": {"holdout": {"source": "empty"}}}, "source empty: no document in it"),
    "no such font": ({"prepare": {"fonts": ["NoSuchFont.ttf"]}}, "NoSuchFont.ttf"),
    "a page too wide": ({"prepare": {"page_width": 20_000}}, "prepare.page_width.*16383"),
    "a page too high": ({"prepare": {"lines_per_page": [1, 2000]}}, "2000 lines make a page higher than 16383"),
    "no room for text": ({"prepare": {"page_width": 40}}, "leaves no room for two letters"),
    "no summary to learn": ({"prepare": {"task": "summarize"}}, "summarize needs target_column"),
    "a negative seed": ({"seed": -1}, "seed.*greater than or equal to 0"),
    "a seed too large": ({"seed": 2**32}, "seed.*less than or equal to 4294967295"),
    # how it is trained
    "4 bits of all weights": ({"train": {"peft": "none", "load_in_4bit": True}}, "load_in_4bit freezes the weights"),
    "all weights by Unsloth": ({"train": {"peft": "none", "backend": "unsloth"}}, "unsloth trains adapters"),
    "checkpoints nowhere": ({"train": {"save_steps": 5}}, "save_steps needs a checkpoint_dir"),
    "stopping unseen": ({"train": {"early_stopping_patience": 2}}, "early_stopping_patience needs eval_steps"),
    "no such checkpoint": (
        {"train": {"resume_from_checkpoint": "checkpoint-7"}},
        r"train\.resume_from_checkpoint 'checkpoint-7': no such checkpoint",
    ),
    "kept features of a trained encoder": (
        {"train": {"vision_features_dir": "kept", "finetune_vision_layers": True}},
        "vision_features_dir needs a frozen vision encoder",
    ),
    # how it is measured
    "pages of the training": ({"evaluate": {"split": "train"}}, r"evaluate\.split 'train'"),
    "another family's setting": (
        {"evaluate": {"base_size": 1024}},
        r"evaluate\.base_size: the DeepSeek-OCR models are read so",
    ),
    "tiles of pages that are not cut": (
        {"evaluate": {"crop_mode": False, "max_crops": 6}},
        r"max_crops is a number of tiles, and without crop_mode there are none",
    ),
    "no text encoder": (
        {"evaluate": {"bertscore_model": "empty"}},
        r"evaluate\.bertscore_model '.*empty': no text enc",
    ),
    "a layer too deep": (
        {"evaluate": {"bertscore_model": "encoder", "bertscore_layer": 7}},
        r"evaluate\.bertscore_layer 7: the model has 2 layers",
    ),
    "a layer of nothing": ({"evaluate": {"bertscore_layer": 1}}, "bertscore_layer needs bertscore_model"),
    "nothing to measure": ({"benchmark": {"max_steps": 2, "warmup_steps": 2}}, "no step would be left to measure"),
    "one document promotes": ({"gate": {"min_documents": 1}}, "min_documents.*greater than or equal to 2"),
    # how it is packed
    "nothing to merge": (
        {"train": {"peft": "none"}, "export": {"merge": True}},
        r"export\.merge with train\.peft 'none'",
    ),
    "an environment unused": (
        {"export": {"fresh_environment": True, "verify": False}},
        "fresh_environment needs verify",
    ),
    "no registry": (
        {"export": {"register_as": "reader"}},
        r"export\.register_as 'reader' with MLFLOW_TRACKING_URI=off",
    ),
    "no such model folder": ({"base_model": "./nowhere"}, r"base_model '\./nowhere': no such model folder"),
}
"""Settings that no run can succeed with -> what ``configure`` says."""


@pytest.fixture
def bad_inputs(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the settings above name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    documents(tmp_path / "one", 1)
    documents(tmp_path / "scans", 1)
    (tmp_path / "scans" / "000.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "one.jsonl").write_text('{"text": "A row."}\n')
    (tmp_path / "one.csv").write_bytes(b"text\r\nA row.\r\n")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text('{"num_hidden_layers": 2}')
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_succeed_are_refused_before_anything_runs(
    source: str, bad_inputs: Path, name: str
) -> None:
    sections, said = REFUSED[name]
    values = dict(sections)
    given = values.pop("source", source)
    if given != source:
        prefix, _, folder = given.rpartition(":")
        given = f"{prefix}:{bad_inputs / folder}" if prefix else str(bad_inputs / folder)
    with pytest.raises(UserError, match=said):
        resolved(given, **values)


def test_good_settings_of_the_same_kinds_are_accepted(source: str, bad_inputs: Path) -> None:
    (bad_inputs / "checkpoint-7").mkdir()
    settings = resolved(
        source,
        seed=2**32 - 1,
        prepare={"page_width": 16_383, "lines_per_page": [1, 200], "fonts": ["DejaVuSansMono.ttf"]},
        train={"resume_from_checkpoint": str(bad_inputs / "checkpoint-7")},
        evaluate={"bertscore_model": str(bad_inputs / "encoder"), "bertscore_layer": 2},
        gate={"min_documents": 12},
    )
    prepare = json.loads(settings["prepare"])
    assert (prepare["min_letter_height"], prepare["min_eval_documents"]) == (8, 12), "the family's, the gate's"


def test_a_holdout_of_its_own_needs_no_eval_fraction(source: str) -> None:
    settings = resolved(source, prepare={"eval_fraction": 0, "holdout": {"source": source}})
    assert json.loads(settings["prepare"])["eval_fraction"] == 0


@pytest.mark.parametrize(
    ("count", "sections", "said"),
    [
        (200, {"prepare": {"max_documents": 20}}, "prepare.eval_fraction of 20 documents holds out about 2 documents"),
        (7, {}, "prepare.eval_fraction of 7 documents holds out about 1 documents"),
        (200, {"prepare": {"max_eval_pages": 2}}, "prepare.max_eval_pages holds out at most 2 documents"),
        (200, {"evaluate": {"max_pages": 2}}, "evaluate.max_pages holds out at most 2 documents"),
        (200, {"prepare": {"holdout": "seven"}}, "prepare.holdout holds out at most 7 documents"),
        (200, {"evaluate": {"max_pages": 2}, "gate": {"min_documents": 2}}, None),
        (200, {}, None),
        (7, {"prepare": {"eval_fraction": 0.5}, "gate": {"min_documents": 3}}, None),
    ],
)
def test_a_run_that_cannot_be_promoted_is_told_before_it_trains(
    tmp_path: Path, count: int, sections: dict[str, Any], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if sections.get("prepare", {}).get("holdout"):
        sections = {"prepare": {"holdout": {"source": documents(tmp_path / "seven", 7)}}}
    resolved(documents(tmp_path / "texts", count), **sections)
    warned = [record.getMessage() for record in caplog.records if "gate.min_documents" in record.getMessage()]
    assert bool(warned) == bool(said)
    if said:
        assert warned[0].startswith(said)
        assert all(way in warned[0] for way in ("prepare.eval_fraction", "prepare.holdout", "gate.min_documents"))


def test_rows_are_counted_without_reading_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A jsonl of 30 rows holds out about 3 documents; a tar's documents are not counted, so nothing is said."""
    (tmp_path / "rows.jsonl").write_text('{"text": "A row."}\n' * 30)
    (tmp_path / "shard.tar").write_bytes(b"")
    resolved(str(tmp_path / "rows.jsonl"))
    resolved(str(tmp_path / "shard.tar"))
    (warned,) = [record.getMessage() for record in caplog.records if "gate.min_documents" in record.getMessage()]
    assert warned.startswith("prepare.eval_fraction of 30 documents holds out about 3 documents")


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a CUDA device")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.load_in_8bit=true", "train.load_in_8bit: 8-bit weights: no CUDA device on this machine"),
        ("train.num_gpus=4", "train.num_gpus: 4 GPUs are asked for, and this machine has 0 CUDA devices"),
        ("train.backend=unsloth", "train.backend: Unsloth cannot run: no CUDA device on this machine"),
        ("evaluate.backend=unsloth", "evaluate.backend: Unsloth cannot run: no CUDA device on this machine"),
    ],
)
def test_a_run_here_is_refused_before_it_starts_if_this_machine_lacks_a_device(
    tmp_path: Path, setting: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPSYNTH_CPU_PROCESSES", raising=False)
    answer = CliRunner().invoke(app, ["run", "--set", setting, "--runs-dir", str(tmp_path / "runs")])
    assert isinstance(answer.exception, UserError) and said in str(answer.exception)
    assert not (tmp_path / "runs").exists()
