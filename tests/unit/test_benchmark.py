"""The benchmark step on a real dataset with the real train step, and its arithmetic on figures worked out by hand."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.benchmark.comparison import compare
from components.benchmark.contender import steady_figures
from components.prepare.config import PrepareConfig
from components.prepare.step import run as prepare
from components.shared.tiny_models import save_blank_paddleocr_vl


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


def benchmark(inputs: Path, output: Path, **settings: Any) -> subprocess.CompletedProcess:
    config = {"dataset_dir": str(inputs / "dataset"), "base_model": str(inputs / "model"), "output_dir": str(output)}
    config_file = output.with_suffix(".config.json")
    config_file.write_text(json.dumps(config | {"max_steps": 3, "warmup_steps": 1} | settings))
    command = [sys.executable, "-m", "components.benchmark", "--config", str(config_file)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asserts what a machine without CUDA says")
def test_without_cuda_the_standard_trainer_is_measured_and_unsloth_says_why_not(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "benchmark"
    answer = benchmark(inputs, output, train={"per_device_train_batch_size": 2, "seed": 3})
    assert answer.returncode == 0, answer.stderr
    report = json.loads((output / "benchmark.json").read_text())
    standard, unsloth = report["measurements"]
    assert report["schema_version"] == 1
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


def test_a_contender_that_fails_says_its_last_words_and_nothing_is_left(inputs: Path, tmp_path: Path) -> None:
    output = tmp_path / "benchmark"
    answer = benchmark(inputs, output, contenders=["standard"], base_model=str(tmp_path / "nowhere"))
    assert answer.returncode == 2
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert "no contender ran: standard failed (exit code 2" in line and "no such model folder" in line
    assert "Traceback" not in answer.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.config.json"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup_steps": 3}, "no step would be left to measure"),
        ({"contenders": ["unslot"]}, "contenders.0"),
        ({"train": {"backend": "standard"}}, "the benchmark sets it"),
        ({"repeat": 2}, "did you mean 'repeats'?"),
        ({"dataset_dir": "/nowhere"}, "no dataset manifest"),
    ],
)
def test_bad_input_is_one_line(inputs: Path, tmp_path: Path, settings: dict, said: str) -> None:
    answer = benchmark(inputs, tmp_path / "benchmark", **settings)
    assert answer.returncode == 2
    assert said in answer.stderr and "Traceback" not in answer.stderr
    assert not (tmp_path / "benchmark").exists()


def training(step_seconds: list[float], trainable: int = 100) -> dict[str, Any]:
    steps = len(step_seconds)
    return {
        "step_seconds": step_seconds,
        "losses": [1.0] * steps,
        "tokens_per_step": [50] * steps,
        "samples_per_step": [4] * steps,
        "peak_memory_bytes": {"allocated": 8 * trainable, "reserved": None, "resident": 1},
        "loading_peak_memory_bytes": {"allocated": 4 * trainable, "reserved": None, "resident": 1},
        "details": {"attention": "sdpa"},
        "trainable_parameters": trainable,
        "device": "H200",
    }


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
    assert runs[0].compile_seconds == pytest.approx(9.0 - 3.0)
    comparison = compare(runs)
    speed, _, memory = comparison.ratios
    assert (speed.quantity, speed.values, speed.median, speed.lowest, speed.highest) == (
        "median_step_seconds",
        [2.0, 3.0],
        2.5,
        2.0,
        3.0,
    )
    assert (memory.quantity, memory.values) == ("peak_allocated_bytes", [2.0, 2.0])
    assert any("do not train the same parameters" in note for note in comparison.notes)


def test_a_ratio_needs_both_contenders_in_the_same_repeat() -> None:
    alone = steady_figures("standard", 1, training([1.0, 1.0]), 1, 5.0)
    later = steady_figures("unsloth", 2, training([1.0, 1.0]), 1, 5.0)
    assert compare([alone, later]).ratios == []
    assert "there is nothing to compare it with" in compare([alone]).notes[-1]


def test_a_run_that_has_only_warm_up_steps_is_a_failure() -> None:
    run = steady_figures("standard", 1, training([1.0, 1.0]), 2, 5.0)
    assert run.status == "failed" and "only 2 steps" in str(run.reason)
