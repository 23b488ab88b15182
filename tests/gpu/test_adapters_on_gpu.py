"""An adapter on a CUDA device: evaluated during training, resumed, and read by the later steps.

python -m pytest -s tests/gpu/test_adapters_on_gpu.py        (needs a CUDA device, bitsandbytes and unsloth)

The trainings run at the same time, two of each backend; -s shows their figures.
"""

import importlib.util
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from components.shared.models.adapter_loading import load_fine_tuned
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.train.backends.standard import StandardBackend
from components.train.batches.collator import PageCollator
from components.train.config import TrainConfig
from components.train.loop.held_out_reading import held_out_sample
from tests.gpu.gpu_training import base_and_dataset, finished, log_of, settings_of, started, trained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"),
    pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs unsloth"),
]

BACKENDS = ["standard", "unsloth"]
both = pytest.mark.parametrize("backend", BACKENDS)
FOUR_BITS: dict[str, Any] = {
    "load_in_4bit": True,
    "max_steps": 8,
    "learning_rate": 3e-3,
    "eval_steps": 4,
    "eval_pages": 1,
    "max_eval_samples": 8,
}
EXPERTS = FOUR_BITS | {"load_in_4bit": False, "adapt_experts": True, "eval_steps": 8, "eval_pages": 0}
LOFTQ = {"init_lora_weights": "loftq"}
# Tolerance for the same training run twice or in both backends: sums on a GPU differ in their last bits. As in
# test_training_on_gpu.
SAME = 5e-3
READING = {"max_pages": 4, "max_new_tokens": 64, "per_device_eval_batch_size": 4}
ON_GPU: dict[str, Any] = {"dtype": torch.bfloat16, "device": torch.device("cuda", 0)}

Trainings = dict[str, dict[str, Future[dict[str, Any]]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("gpu"))


# This test runs first, before the trainings start, because it fills the GPU's memory.
def test_a_training_that_does_not_fit_is_refused_unless_told_to_go_on(made: Path, tmp_path: Path) -> None:
    free, _ = torch.cuda.mem_get_info()
    ballast = [
        torch.empty(free - 3 * 2**29, dtype=torch.uint8, device="cuda")
    ]  # leaves 1.5 GiB, including the child's CUDA context
    settings = settings_of(made, tmp_path / "out", backend="standard", per_device_train_batch_size=128, max_steps=2)
    assert started("train", settings).wait() == 2
    said = log_of("train", settings).read_text()
    assert "are predicted at the peak" in said and "ignore_memory_estimate: true" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()

    settings |= {"output_dir": str(tmp_path / "told"), "ignore_memory_estimate": True}
    with started("train", settings) as process:
        wait_until(lambda: "it may run out of memory" in log_of("train", settings).read_text(), process.poll)
        ballast.clear()
        torch.cuda.empty_cache()
    assert process.returncode == 0, log_of("train", settings).read_text()[-3000:]
    assert "it may run out of memory" in log_of("train", settings).read_text()


@pytest.fixture(scope="module")
def trainings(made: Path) -> Iterator[Trainings]:
    """Per backend: ``whole``, ``loftq`` and ``resumed`` (stopped twice) in 4 bits, ``experts`` (adapted) in 16 bits."""
    pools = {backend: ThreadPoolExecutor(2) for backend in BACKENDS}
    running: Trainings = {}
    for backend, pool in pools.items():
        settings = {"backend": backend, **FOUR_BITS}
        running[backend] = {
            "whole": pool.submit(trained, made, made / f"{backend}-whole", **settings),
            # Submitted second because it starts three processes: the other trainings follow the first one meanwhile.
            "resumed": pool.submit(trained_with_interruptions, made, made / f"{backend}-resumed", **settings),
            "loftq": pool.submit(trained, made, made / f"{backend}-loftq", **settings, **LOFTQ),
            "experts": pool.submit(trained, made, made / f"{backend}-experts", **EXPERTS, backend=backend),
        }
    yield running
    for pool in pools.values():
        pool.shutdown(cancel_futures=True)
    for backend, runs in running.items():
        for name, run in runs.items():
            if not run.exception():
                print(f"\n{backend} {name}:", figures(run.result()), end="")


def figures(training: dict[str, Any]) -> str:
    shown = {name: training[name] for name in ("losses", "eval_losses", "eval_cers", "resumed_after_steps")}
    return json.dumps({**shown, "loftq": training["details"].get("loftq")})


def trained_with_interruptions(made: Path, output: Path, **settings: Any) -> dict[str, Any]:
    """Kill the training after step 2, terminate the resumed one after step 4, and let a third one finish."""
    settings |= {"checkpoint_dir": f"{output}-checkpoints", "save_steps": 2}
    for step, sent, code in ((2, signal.SIGKILL, -signal.SIGKILL), (4, signal.SIGTERM, 143)):
        each = settings_of(made, output, **settings)
        seal = f"training-*/checkpoint-{step}/checkpoint.json"
        with started("train", each) as process:
            wait_until(lambda seal=seal: list(Path(settings["checkpoint_dir"]).glob(seal)), process.poll)
            process.send_signal(sent)
        assert process.returncode == code, log_of("train", each).read_text(errors="replace")[-3000:]
    return trained(made, output, **settings)


def wait_until(condition: Callable[[], Any], ended: Callable[[], int | None]) -> None:
    while not condition() and ended() is None:
        time.sleep(0.005)


@both
def test_it_is_evaluated_while_it_trains(trainings: Trainings, backend: str) -> None:
    training = trainings[backend]["whole"].result()
    assert training["backend"] == backend
    assert training["eval_steps"] == [4, 8]
    assert training["eval_losses"][1] < training["eval_losses"][0] < training["losses"][0]
    assert len(training["eval_cers"]) == len(training["eval_wers"]) == 2 and min(training["eval_cers"]) > 0


@both
def test_stopped_twice_it_ends_as_if_it_had_not_been(trainings: Trainings, backend: str) -> None:
    resumed, whole = (trainings[backend][name].result() for name in ("resumed", "whole"))
    first, second = resumed["resumed_after_steps"]
    assert first == 2 and 4 <= second < 8
    assert resumed["losses"] == pytest.approx(whole["losses"], rel=SAME)
    assert resumed["eval_losses"] == pytest.approx(whole["eval_losses"], rel=SAME)
    assert resumed["tokens_per_step"] == whole["tokens_per_step"]
    assert resumed["learning_rates"] == whole["learning_rates"]


@pytest.mark.parametrize("name", ["whole", "loftq"])
def test_both_backends_measure_the_same(trainings: Trainings, name: str) -> None:
    standard, unsloth = (trainings[backend][name].result() for backend in BACKENDS)
    for curve in ("losses", "eval_losses"):
        assert unsloth[curve] == pytest.approx(standard[curve], rel=2 * SAME), curve
    if name == "loftq":
        assert unsloth["details"]["loftq"] == pytest.approx(standard["details"]["loftq"], rel=1e-2)


def held_out_loss(model: Any, config: TrainConfig) -> float:
    """Return the loss of the same pages in the same batches as the training's held-out loss."""
    collator = PageCollator(load_processor(config.base_model), family_of(model.config.model_type), config.max_length)
    pages = held_out_sample(config)
    batches = DataLoader(pages, batch_size=config.per_device_train_batch_size, collate_fn=collator)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        losses = [
            (len(batch["input_ids"]), model.eval()(**{name: on_gpu(value) for name, value in batch.items()}).loss)
            for batch in batches
        ]
    return sum(rows * float(loss) for rows, loss in losses) / len(pages)


def on_gpu(value: Any) -> Any:
    return value.to("cuda") if isinstance(value, torch.Tensor) else value


@both
def test_the_saved_adapter_is_the_trained_one(made: Path, trainings: Trainings, backend: str) -> None:
    reached = trainings[backend]["whole"].result()["eval_losses"][-1]
    config = TrainConfig.model_validate(settings_of(made, made / "unused", backend="standard", **FOUR_BITS))
    model = StandardBackend().load(config).model
    learned = held_out_loss(model, config) - reached
    assert learned > 0.1
    adapter = get_peft_model_state_dict(model)
    stored = load_file(made / f"{backend}-whole" / "adapter_model.safetensors")
    assert adapter.keys() == stored.keys()
    with torch.no_grad():
        for name, values in stored.items():
            adapter[name].copy_(values)
    assert held_out_loss(model, config) == pytest.approx(reached, abs=0.05 * learned)
    whole = load_fine_tuned(config.base_model, made / f"{backend}-whole", **ON_GPU)
    assert held_out_loss(whole, config) == pytest.approx(reached, abs=0.2 * learned), "on the base in 16 bits"


@both
def test_adapted_experts_are_read_in_their_layout(made: Path, trainings: Trainings, backend: str) -> None:
    training = trainings[backend]["experts"].result()
    reached = training["eval_losses"][-1]
    config = TrainConfig.model_validate(training["config"] | {"output_dir": str(made / "unused")})
    learned = held_out_loss(load_model(config.base_model, **ON_GPU), config) - reached
    assert learned > 0.1
    saved = load_fine_tuned(config.base_model, made / f"{backend}-experts", **ON_GPU)
    assert held_out_loss(saved, config) == pytest.approx(reached, abs=0.05 * learned)


@both
def test_loftq_makes_up_for_quantisation(made: Path, trainings: Trainings, backend: str) -> None:
    training = trainings[backend]["loftq"].result()
    facts, reached = training["details"]["loftq"], training["eval_losses"][-1]
    assert facts["error_with_adapter"] < 0.95 * facts["error"]
    folder = made / f"{backend}-loftq"
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2 * training["config"]["r"]
    config = TrainConfig.model_validate(training["config"] | {"output_dir": str(made / "unused")})
    learned = held_out_loss(load_model(config.base_model, **ON_GPU), config) - reached
    assert learned > 0.1
    whole = load_fine_tuned(config.base_model, folder, **ON_GPU)
    assert held_out_loss(whole, config) == pytest.approx(reached, abs=0.2 * learned), "on the base in 16 bits"


@pytest.mark.parametrize("name", ["standard-whole", "unsloth-whole", "unsloth-loftq"])
def test_evaluate_and_export_read_the_adapter(made: Path, trainings: Trainings, tmp_path: Path, name: str) -> None:
    for package in ("evaluate", "jinja2", "jiwer", "matplotlib", "pyarrow", "sacrebleu"):
        pytest.importorskip(package)
    backend, training = name.split("-")
    trainings[backend][training].result()
    places = {"dataset_dir": str(made / "dataset"), "base_model": str(made / "base"), "adapter_dir": str(made / name)}
    evaluation = {"output_dir": str(tmp_path / "evaluation"), "classic_ocr": False, **places, **READING}
    finished("evaluate", evaluation)
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert (
        rows.keys() == {"base", "adapter"}
        and 0 < rows["adapter"]["pages"] <= 4
        and rows["adapter"]["failure_rate"] == 0
    )
    package = {"output_dir": str(tmp_path / "package"), "evaluation_dir": evaluation["output_dir"], **places}
    finished("export", package)
    lineage = json.loads((tmp_path / "package" / "lineage.json").read_text())
    assert lineage["verification"]["text"] is not None
    assert (tmp_path / "package" / lineage["archive"]["file"]).is_file()
