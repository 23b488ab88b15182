"""The benchmark step on a real dataset with the real train step, and its arithmetic on hand-computed figures."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from PIL import Image

from components.benchmark.config import BenchmarkConfig
from components.benchmark.contenders.contender import measure, steady_figures, train_settings
from components.benchmark.contenders.probes import PROBES, character_error_rate, probe_figures
from components.benchmark.report.comparison import compare
from components.benchmark.report.page import benchmark_page
from components.benchmark.step import run
from components.prepare.config import PrepareConfig
from components.prepare.step import run as prepare
from components.shared.artifacts.benchmark_report import Measurement
from components.shared.artifacts.training_record import BatchHalving, BatchRecord, TrainingRecord
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.base_models import TINY_BASE_FOLDER
from components.shared.models.model_families import FAMILIES
from components.shared.models.model_loading import load_processor
from components.shared.programs.step_command import step_main
from components.shared.reading.image_text_inputs import training_inputs
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl, save_tiny_deepseek_ocr2
from components.train.backends.choice import choose_backend
from components.train.batches.collator import with_image_processor
from components.train.config import TrainConfig
from components.train.probes.capacity import CopiesOfOnePicture, largest_batch, largest_fitting, longest_context
from components.train.probes.probe import ProbeConfig
from components.train.probes.probe import run as probe_model
from tests.fixtures.training_record import training_record


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        save_blank_paddleocr_vl(folder / "model")
        prepare(
            PrepareConfig(
                output_dir=folder / "dataset", max_documents=6, max_train_pages=24, workers=1, text_engine="pillow"
            )
        )
        yield folder


def flags(inputs: Path, output: Path, **settings: Any) -> list[str]:
    config = {"dataset_dir": str(inputs / "dataset"), "base_model": str(inputs / "model"), "output_dir": str(output)}
    config_file = output.with_suffix(".config.json")
    config_file.write_text(json.dumps(config | {"max_steps": 3, "warmup_steps": 1} | settings))
    return ["--config", str(config_file)]


def benchmark(
    inputs: Path, output: Path, environment: dict[str, str] | None = None, **settings: Any
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "components.benchmark", *flags(inputs, output, **settings)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="asserts what a machine without CUDA says")
def test_without_cuda_the_standard_trainer_is_measured_and_unsloth_says_why_not(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "benchmark"
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    answer = benchmark(
        inputs,
        output,
        {"MLFLOW_TRACKING_URI": store},
        train={"per_device_train_batch_size": 2, "seed": 3, "eval_steps": 1},
        cer_pages=2,
        max_new_tokens=8,
        generation_tokens=4,
        generation_batch_size=2,
        generation_repeats=2,
        memory_cap_gib=1.0,
    )
    assert answer.returncode == 0, answer.stderr
    report = json.loads((output / "benchmark.json").read_text())
    standard, unsloth = report["measurements"]
    assert report["schema_version"] == 3
    assert (unsloth["contender"], unsloth["status"]) == ("unsloth", "skipped")
    assert unsloth["reason"] == "no CUDA device on this machine"
    assert unsloth["median_step_seconds"] is None
    assert standard["status"] == "ok"
    assert len(standard["step_seconds"]) == len(standard["losses"]) == 3
    steady = sorted(standard["step_seconds"][1:])
    assert standard["median_step_seconds"] == pytest.approx(sum(steady) / 2)
    assert standard["samples_per_second"] == pytest.approx(4 / sum(steady))
    assert standard["startup_seconds"] > 0
    assert standard["peak_memory_bytes"]["allocated"] is None
    assert standard["peak_memory_bytes"]["resident"] > 50 * 2**20
    assert report["ratios"] == []
    page = (output / "benchmark.html").read_text()
    assert "<svg" in page and "no CUDA device on this machine" in page and "src=" not in page
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.html", "logs"}
    assert_probes(standard, page)
    row, other = report["contenders"]
    assert (row["status"], row["runs"], other["status"], other["figures"]) == ("ok", 1, "skipped", {})
    assert row["figures"]["generated_tokens_per_second"]["values"] == standard["generated_tokens_per_second"]
    assert_runs_are_nested(store, standard["losses"])


def assert_probes(standard: dict[str, Any], page: str) -> None:
    """Check the probes of the standard trainer's model on a machine without CUDA."""
    reading = standard["probes"]["reading"]
    assert reading["status"] == "ok" and len(reading["texts"]) == 2
    assert standard["cer"] == character_error_rate(reading["labels"], reading["texts"]) > 0
    assert len(standard["generated_tokens_per_second"]) == len(standard["first_token_seconds"]) == 2
    assert standard["generated_tokens_per_second"][0] == pytest.approx(4 * standard["generated_pages_per_second"][0])
    for name in ("largest_batch", "longest_context"):
        assert standard[name] is None
        assert standard["probes"][name] == {"status": "skipped", "reason": "no CUDA device on this machine"}
    assert "longest context: not measured, no CUDA device on this machine" in page


def assert_runs_are_nested(store: str, losses: list[float]) -> None:
    """Check that each contender has its own run, nested under the benchmark's run."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("deepsynth")
    assert experiment
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"benchmark", "benchmark-standard", "benchmark-unsloth"}
    for name in ("benchmark-standard", "benchmark-unsloth"):
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["benchmark"].info.run_id
    assert runs["benchmark-unsloth"].data.tags["reason"] == "no CUDA device on this machine"
    history = client.get_metric_history(runs["benchmark-standard"].info.run_id, "loss")
    assert [point.value for point in history] == pytest.approx(losses)


def test_a_probe_that_cannot_run_says_why_and_the_others_are_measured(inputs: Path, tmp_path: Path) -> None:
    train = {"dataset_dir": str(inputs / "dataset"), "base_model": str(inputs / "model"), "output_dir": str(tmp_path)}
    result_file = tmp_path / "probes.json"
    measured = probe_model(
        ProbeConfig(
            train=train, result_file=result_file, generation_tokens=2, generation_batch_size=1, generation_repeats=1
        )
    )
    assert measured == json.loads(result_file.read_text())
    assert measured["reading"]["status"] == "failed"
    assert "no adapter to read with" in measured["reading"]["reason"]
    assert len(measured["generation"]["tokens_per_second"]) == 1
    assert measured["longest_context"] == {"status": "skipped", "reason": "memory_cap_gib is not set"}


@pytest.mark.slow
def test_a_contender_that_fails_says_its_last_words_and_nothing_is_left(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "benchmark"
    (startup := tmp_path / "startup").mkdir()
    (startup / "sitecustomize.py").write_text(
        f"import sys; print(*sys.orig_argv, file=open({str(startup / 'started')!r}, 'a'))"
    )
    base = shutil.copytree(TINY_BASE_FOLDER, tmp_path / "base")
    weights = base / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)  # --check_only reads no weights
    answer = benchmark(
        inputs,
        output,
        {"PYTHONPATH": str(startup)},
        contenders=["standard"],
        repeats=2,
        base_model=str(base),
    )
    assert answer.returncode == 2
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert "no contender ran: standard failed (base_model" in line and "the weights cannot be read" in line
    trainings = [line for line in (startup / "started").read_text().splitlines() if "-m components.train " in line]
    assert ["--check_only" in line for line in trainings] == [True, False], "it is not tried again"
    assert "Traceback" not in answer.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"base", "benchmark.config.json", "startup"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup_steps": 3}, "no step would be left to measure"),
        ({"contenders": ["unslot"]}, "contenders.0"),
        ({"train": {"backend": "standard"}}, "the benchmark sets it"),
        ({"train": {"learning_rat": 1e-3}}, "unknown key 'learning_rat' (did you mean 'learning_rate'?)"),
        ({"train": {"r": 0}}, "'r': Input should be greater than or equal to 1"),
        ({"repeat": 2}, "did you mean 'repeats'?"),
        ({"dataset_dir": "/nowhere"}, "no dataset manifest"),
    ],
)
def test_bad_input_is_one_line(
    inputs: Path, tmp_path: Path, settings: dict, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step_main("benchmark", BenchmarkConfig, run, flags(inputs, tmp_path / "benchmark", **settings)) == 2
    errors = capsys.readouterr().err
    assert said in errors and "Traceback" not in errors
    assert not (tmp_path / "benchmark").exists()


def training(step_seconds: list[float], trainable: int = 100) -> TrainingRecord:
    steps = len(step_seconds)
    return training_record(
        step_seconds=step_seconds,
        losses=[1.0] * steps,
        tokens_per_step=[50] * steps,
        samples_per_step=[4] * steps,
        peak_memory_bytes={"allocated": 8 * trainable, "reserved": None, "resident": 1},
        loading_peak_memory_bytes={"allocated": 4 * trainable, "reserved": None, "resident": 1},
        data_wait_seconds=[1.0] * steps,
        details={"attention": "sdpa"},
        trainable_parameters=trainable,
        device="H200",
    )


def test_a_contender_whose_batch_was_halved_has_no_figures() -> None:
    halved = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    batch = BatchRecord(**halved, fitted=False, halvings=[BatchHalving(after_step=1, **halved)])
    run = steady_figures("standard", 1, training([9.0, 2.0]).model_copy(update={"batch": batch}), 1, wall_seconds=30.0)
    assert (run.status, run.median_step_seconds) == ("failed", None)
    assert run.reason and run.reason.startswith(
        "ran out of memory after step 1; it went on with per_device_train_batch"
    )


def test_figures_and_ratios_leave_the_warm_up_out() -> None:
    runs = [
        steady_figures("standard", 1, training([9.0, 2.0, 3.0, 4.0], 200), 1, wall_seconds=30.0),
        steady_figures("unsloth", 1, training([90.0, 1.0, 1.5, 2.0], 100), 1, wall_seconds=100.0),
        steady_figures("standard", 2, training([9.0, 3.0, 3.0, 3.0], 200), 1, wall_seconds=30.0),
        steady_figures("unsloth", 2, training([90.0, 1.0, 1.0, 1.0], 100), 1, wall_seconds=100.0),
    ]
    assert runs[0].median_step_seconds == 3.0
    assert runs[0].samples_per_second == pytest.approx(12 / 9)
    assert runs[0].tokens_per_second == pytest.approx(150 / 9)
    assert runs[0].startup_seconds == pytest.approx(21.0)
    assert runs[0].data_wait_share == pytest.approx(3 / 12)
    assert runs[0].compile_seconds == pytest.approx(9.0 - 3.0)
    comparison = compare(runs)
    ratios = {ratio.quantity: ratio for ratio in comparison.ratios}
    speed, gain = ratios["median_step_seconds"], ratios["samples_per_second"]
    assert (speed.values, speed.median, speed.lowest, speed.highest) == ([2.0, 3.0], 2.5, 2.0, 3.0)
    assert (speed.formula, gain.formula) == ("standard / unsloth", "unsloth / standard")
    assert gain.values == pytest.approx([2.0, 3.0])
    assert ratios["peak_allocated_bytes"].values == [2.0, 2.0]
    assert "largest_batch" not in ratios and "peak_reserved_bytes" not in ratios
    row = comparison.contenders[1]
    assert (row.contender, row.runs, row.figures["median_step_seconds"].values) == ("unsloth", 2, [1.5, 1.0])
    assert any("do not train the same parameters" in note for note in comparison.notes)


def test_unsloth_is_compared_with_each_baseline_by_itself() -> None:
    seconds = {"standard": 2.0, "unsloth": 1.0, "stock": 5.0}
    runs = [steady_figures(name, 1, training([9.0, each]), 1, 20.0) for name, each in seconds.items()]  # type: ignore[arg-type]
    ratios = [ratio for ratio in compare(runs).ratios if ratio.quantity == "median_step_seconds"]
    assert [(ratio.baseline, ratio.formula, ratio.median) for ratio in ratios] == [
        ("standard", "standard / unsloth", 2.0),
        ("stock", "stock / unsloth", 5.0),
    ]


def test_the_stock_trainer_is_the_standard_one_as_its_guide_has_it(tmp_path: Path) -> None:
    config = BenchmarkConfig(dataset_dir=tmp_path, output_dir=tmp_path / "out", train={"load_in_4bit": True, "r": 8})
    stock, standard = (train_settings(name, config, tmp_path / "adapter") for name in ("stock", "standard"))
    differing = {name: stock[name] for name in stock if stock.get(name) != standard.get(name)}
    assert differing == {"quantize_experts": False, "upcast_unquantized": True}
    assert stock["backend"] == "standard" and stock["r"] == 8


def test_what_is_left_when_the_time_is_over_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # a training that does not end
    config = BenchmarkConfig(dataset_dir=tmp_path, output_dir=tmp_path / "out", time_limit_minutes=1)
    left = measure("standard", 1, config, tmp_path, deadline=time.monotonic())
    assert (left.status, left.reason) == ("skipped", "the benchmark's time_limit_minutes are over")
    ended = measure("standard", 1, config, tmp_path, deadline=time.monotonic() + 2)
    assert (ended.status, ended.reason) == ("failed", "the benchmark's time_limit_minutes are over")


def test_a_ratio_needs_both_contenders_in_the_same_repeat() -> None:
    alone = steady_figures("standard", 1, training([1.0, 1.0]), 1, 5.0)
    later = steady_figures("unsloth", 2, training([1.0, 1.0]), 1, 5.0)
    assert compare([alone, later]).ratios == []
    assert "there is nothing to compare it with" in compare([alone]).notes[-1]


def test_a_run_that_has_only_warm_up_steps_is_a_failure() -> None:
    run = steady_figures("standard", 1, training([1.0, 1.0]), 2, 5.0)
    assert run.status == "failed" and "only 2 steps" in str(run.reason)


def probed(contender: Any, figures: dict[str, Any]) -> Measurement:
    """Return a measured run with probes: ``figures`` maps each part to its figures, or to the reason of its failure."""
    parts = {name: {"status": "skipped", "reason": "not asked for"} for name in PROBES}
    for name, given_part in figures.items():
        failed = isinstance(given_part, str)
        parts[name] = {"status": "failed", "reason": given_part} if failed else {"status": "ok", **given_part}
    return steady_figures(contender, 1, training([9.0, 1.0, 1.0]), 1, 5.0).model_copy(update=probe_figures(parts))


def test_probes_become_figures_ratios_and_notes() -> None:
    speed = {"tokens_per_second": [10.0, 20.0], "pages_per_second": [1.0, 2.0], "first_token_seconds": [0.2, 0.1]}
    speed |= {"graphed_tokens_per_second": [30.0], "graphed_pages_per_second": [3.0]}
    twice = {
        "not_recorded": "it asks the host",
        "tokens_per_second": [20.0, 60.0],
        "pages_per_second": [2.0, 6.0],
        "first_token_seconds": [0.1, 0.1],
    }
    standard = probed(
        "standard",
        {
            "reading": {"labels": ["abcd", "ef gh"], "texts": ["abxd", "ef  gh"]},
            "generation": speed,
            "largest_batch": {"pages": 4, "samples_per_second": 8.0},
            "longest_context": {"tokens": 2048, "model_positions": 8192},
        },
    )
    unsloth = probed(
        "unsloth",
        {
            "reading": "killed by signal 9",
            "generation": twice,
            "largest_batch": {"pages": 0},
            "longest_context": {"tokens": 10240, "model_positions": 8192},
        },
    )
    assert standard.cer == pytest.approx(1 / 9)
    assert (standard.graphed_tokens_per_second, unsloth.graphed_tokens_per_second) == ([30.0], None)
    comparison = compare([standard, unsloth])
    ratios = {ratio.quantity: ratio.values for ratio in comparison.ratios}
    assert ratios["generated_tokens_per_second"] == ratios["generated_pages_per_second"] == [2.0, 3.0]
    assert ratios["first_token_seconds"] == [2.0, 1.0]
    assert ratios["longest_context"] == [5.0]
    assert "largest_batch" not in ratios, "a batch of 0 pages has no ratio"
    assert unsloth.largest_batch == 0 and comparison.contenders[1].figures["largest_batch"].median == 0
    assert comparison.contenders[1].missing == {"reading": "killed by signal 9"}
    assert "unsloth: its generation cannot be recorded (it asks the host)" in comparison.notes
    assert any("the model has 8,192 positions" in note for note in comparison.notes)
    page = benchmark_page(BenchmarkConfig(dataset_dir=Path(), output_dir=Path(), memory_cap_gib=24), comparison)
    assert "CER: not measured, killed by signal 9" in page and "10,240" in page and "11.11" in page
    assert "below 24 GiB" in page


@given(capacity=st.integers(0, 5000), first=st.integers(1, 8), granule=st.sampled_from([1, 64]))
def test_the_search_finds_what_fits(capacity: int, first: int, granule: int) -> None:
    tried: list[int] = []

    def fits(value: int) -> bool:
        tried.append(value)
        return value <= capacity

    limit = 1024 // granule * granule
    found = largest_fitting(fits, first * granule, limit, granule)
    best = min(capacity // granule * granule, limit)
    assert found <= best and found % granule == 0
    assert found == 0 if best < first * granule else best - found <= max(granule, found / 32)
    assert max(tried) <= limit and len(tried) == len(set(tried)) <= 24


@pytest.mark.parametrize("family", ["deepseek_ocr2", "paddleocr_vl"])
def test_copies_of_a_picture_are_computed_once(tmp_path: Path, family: str) -> None:
    base = "tiny-base"
    if family == "deepseek_ocr2":
        base = str(tmp_path / "base")
        save_tiny_deepseek_ocr2(tmp_path / "base")
    processor: Any = load_processor(base)
    copies = with_image_processor(processor, CopiesOfOnePicture(processor.image_processor))
    pictures, texts = [Image.effect_noise((300, 200), 50)] * 3, ["one", "the second", ""]
    expected = training_inputs(processor, FAMILIES[family], pictures, [None] * 3, texts)
    found = training_inputs(copies, FAMILIES[family], pictures, [None] * 3, texts)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_trials_train_what_they_say(inputs: Path, tmp_path: Path) -> None:
    # In bfloat16 this family can be trained only under autocast, which the second trial must keep.
    save_tiny_deepseek_ocr2(tmp_path / "base")
    config = TrainConfig(
        dataset_dir=inputs / "dataset", base_model=str(tmp_path / "base"), output_dir=tmp_path, dtype="bfloat16"
    )
    trainable = choose_backend(config)[0].load(config)
    picture = io.BytesIO()
    Image.new("L", (112, 56), 255).save(picture, "PNG")
    page = replace(
        ShardDataset(config.dataset_dir, "train")[0],
        image_bytes=picture.getvalue(),
        metadata={"text": "A few words, and a few more."},
    )
    batch = largest_batch(trainable, config, page, tmp_path, limit=2)
    assert (batch["pages"], batch["at_limit"]) == (2, True)
    assert [trial["pages"] for trial in batch["trials"]] == [1, 2, 2]
    assert batch["samples_per_second"] == pytest.approx(2 / batch["median_step_seconds"])
    context = longest_context(trainable, config, page, tmp_path, limit=600)
    assert (context["tokens"], context["at_limit"]) == (576, True)
    assert all(trial["tokens"] == trial["max_length"] for trial in context["trials"])
