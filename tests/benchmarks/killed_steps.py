"""Kills the steps with SIGKILL at random moments, runs each again, and compares its output with an undisturbed run's.

    python -m tests.benchmarks.killed_steps --moments 50 --json docs/benchmarks/killed-steps.json

All six steps run once, one after the other, on a blank tiny model; these outputs are the expected ones. A step is
``python -m components.STEP``, forked from a process that has imported the libraries. Then, in turns, each step runs
again on the same inputs and is killed at a random moment between its first write and its end. Whatever it started must
end with it. The same command is run once more: it must remove what the killed process left, among the temporary files
too, and give the bytes that ``same_bytes`` names. A step that ended before its moment came is not counted, and tried
again.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl

STEPS = ("prepare", "train", "evaluate", "benchmark", "gate", "export")
_BOUND = 600
"""seconds that a step may take, on a busy machine too"""
_MEASURED = {
    "training.json": {
        *("peak_memory_bytes", "loading_peak_memory_bytes", "step_seconds", "data_wait_seconds", "eval_seconds"),
        *("checkpoint_seconds", "resumed_after_steps", "config"),
    },
    "report.json": {"created_at", "seconds", "pages_per_second"},
}
"""times, memory and dates, which no two runs share, and the paths of the output"""


@dataclass(frozen=True)
class Kill:
    """One kill: the step, the seconds from its first write to the kill, and what was found."""

    step: str
    seconds: float
    processes_ended: int
    folders_left: int
    resumed_after_steps: list[int]


class Chain:
    """The six steps in ``folder``: inputs, the expected outputs, and runs that are killed.

    Args:
        probes: export also runs the package, and the benchmark also reads pages, each in one more process. Their start
            and that of the benchmark's other two processes, which all import PyTorch, is most of the time.
    """

    def __init__(self, folder: Path, probes: bool) -> None:
        self.folder = folder
        self.probes = probes
        self._scratch = folder / "temporary"
        self._scratch.mkdir()
        self._attempts = 0
        rows = [json.dumps({"text": f"{number} boats and {number * 7} ships " * 6}) + "\n" for number in range(60)]
        (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
        save_blank_paddleocr_vl(folder / "base")
        self.seconds = {step: self._undisturbed(step) for step in STEPS}
        self.expected = {step: same_bytes(step, self._output(step)) for step in STEPS}

    def kill(self, step: str, share: float) -> Kill | None:
        """Kill ``step`` after ``share`` of its working time, run it again and compare; None: it had ended before."""
        self._attempts += 1
        place = self.folder / f"killed-{self._attempts}"
        place.mkdir()
        seconds = share * self.seconds[step]
        started = self._killed(step, place, seconds)
        if (place / step).exists():
            shutil.rmtree(place)
            return None
        left = [path.name for path in place.glob(f".{step}.partial-*")]
        said = self._finished(step, place)
        for name in left:
            assert f"removed what a killed process left: {place / name}" in said.replace("\n", ""), said
        found = same_bytes(step, place / step)
        assert found == self.expected[step], f"{step} after {seconds:.2f} s: {differences(found, self.expected[step])}"
        others = {path.name for path in place.iterdir()} - {step, "checkpoints", "log"}
        assert not others, f"{step} left {others}"
        temporary = sorted(path.relative_to(self._scratch) for path in self._scratch.rglob("*"))
        assert not temporary, f"{step} left {temporary} among the temporary files"
        resumed = _resumed_after(place / step) if step == "train" else []
        shutil.rmtree(place)
        return Kill(step, round(seconds, 3), started, len(left), resumed)

    def _output(self, step: str) -> Path:
        return self.folder / "whole" / step

    def _options(self, step: str, place: Path) -> list[str]:
        """Return the options; the inputs are the expected outputs of the steps before, the output is in ``place``."""
        base, dataset = ["--base_model", str(self.folder / "base")], ["--dataset_dir", str(self._output("prepare"))]
        adapter = ["--adapter_dir", str(self._output("train"))]
        evaluation = ["--evaluation_dir", str(self._output("evaluate"))]
        options = {
            "prepare": ["--source", str(self.folder / "rows.jsonl"), "--workers", "2", "--max_samples_per_shard", "20"],
            "train": [
                *(*dataset, *base, "--max_steps", "20", "--per_device_train_batch_size", "4", "--backend", "standard"),
                *("--checkpoint_dir", str(place / "checkpoints"), "--save_steps", "2"),
            ],
            "evaluate": [*dataset, *base, *adapter, "--max_new_tokens", "24", "--no-classic_ocr"],
            "benchmark": [
                *(*dataset, *base, "--max_steps", "4", "--warmup_steps", "1", "--contenders", "standard"),
                *("--cer_pages", "4" if self.probes else "0", "--max_new_tokens", "16", "--generation_tokens", "0"),
                *("--train", '{"per_device_train_batch_size": 4}'),
            ],
            "gate": [*evaluation, "--min_documents", "2", "--min_improvement", "-1000"],
            "export": [
                *(*dataset, *base, *adapter, *evaluation, "--gate_dir", str(self._output("gate"))),
                *("--verify" if self.probes else "--no-verify", "--model_name", "reader"),
            ],
        }
        return [*options[step], "--output_dir", str(place / step)]

    def _started(self, step: str, place: Path) -> BaseProcess:
        arguments = (step, self._options(step, place), str(place / "log"), str(self._scratch))
        process = _PROGRAMS.Process(target=_run_program, args=arguments)
        process.start()
        return process

    def _finished(self, step: str, place: Path) -> str:
        """Run the step to its end and return what it said."""
        process = self._started(step, place)
        process.join(timeout=_BOUND)
        said = (place / "log").read_text()
        assert process.exitcode == 0, said
        return said

    def _undisturbed(self, step: str) -> float:
        """Run the step to its end and return the seconds from its first write on."""
        place = self.folder / "whole"
        place.mkdir(exist_ok=True)
        process = self._started(step, place)
        _wait_for(lambda: _writes(step, place) or process.exitcode is not None)
        began = time.monotonic()
        process.join(timeout=_BOUND)
        assert process.exitcode == 0, (place / "log").read_text()
        return time.monotonic() - began

    def _killed(self, step: str, place: Path, seconds: float) -> int:
        """Start the step, kill it ``seconds`` after its first write, and return how many processes it had started."""
        process = self._started(step, place)
        _wait_for(lambda: _writes(step, place) or process.exitcode is not None)
        process.join(timeout=seconds)
        children = psutil.Process(process.pid).children(recursive=True) if process.is_alive() else []
        process.kill()
        process.join()
        _, alive = psutil.wait_procs(children, timeout=_BOUND)
        assert not alive, f"{alive} outlived the killed {step}"
        return len(children)


_PROGRAMS = multiprocessing.get_context("forkserver")
_PROGRAMS.set_forkserver_preload([f"components.{step}.step" for step in STEPS] + ["peft", "transformers", __name__])


def _run_program(step: str, options: list[str], log: str, scratch: str) -> None:
    """Do what ``python -m components.STEP`` does in a fresh process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "KFP"))]:
        del os.environ[name]
    os.environ |= {"MLFLOW_TRACKING_URI": "off", "OMP_NUM_THREADS": "1", "TMPDIR": scratch}
    os.environ["DEEPSYNTH_GIT_COMMIT"] = "0" * 40  # it is in the outputs; somebody may commit meanwhile
    tempfile.tempdir = None
    import torch

    torch.set_num_threads(1)
    sys.argv = [step, *options]
    runpy.run_module(f"components.{step}", run_name="__main__", alter_sys=True)


def same_bytes(step: str, output: Path) -> dict[str, Any]:
    """Return what two runs of a step must share: file -> sha256, or the content where times are beside it.

    Of ``training.json`` and ``report.json``: all but times, memory and dates; of ``samples.parquet``: all but the
    column ``seconds``. Of the benchmark, which measures: losses, CER and tokens. ``report.html`` shows times.
    """
    if step == "benchmark":
        report = json.loads((output / "benchmark.json").read_text())
        kept = ("contender", "status", "cer", "losses", "tokens_per_step", "trainable_parameters")
        return {"measurements": [{name: run[name] for name in kept} for run in report["measurements"]]}
    found: dict[str, Any] = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        name = path.relative_to(output).as_posix()
        if name in _MEASURED:
            found[name] = _without(json.loads(path.read_text()), _MEASURED[name])
        elif name == "samples.parquet":
            found[name] = pq.read_table(path).drop_columns(["seconds"]).to_pylist()
        elif name != "report.html":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _without(content: Any, names: set[str]) -> Any:
    if isinstance(content, dict):
        return {name: _without(value, names) for name, value in content.items() if name not in names}
    return [_without(value, names) for value in content] if isinstance(content, list) else content


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Return the places at which two contents of JSON differ, with both values, shortened."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted(found.keys() | expected.keys())
        parts = [differences(found.get(name), expected.get(name), f"{place}/{name}") for name in names]
        return [one for part in parts for one in part]
    return [] if found == expected else [f"{place}: {str(found)[:200]} instead of {str(expected)[:200]}"]


def _resumed_after(adapter: Path) -> list[int]:
    resumed: list[int] = json.loads((adapter / "training.json").read_text())["resumed_after_steps"]
    return resumed


def _writes(step: str, place: Path) -> bool:
    return any(place.glob(f".{step}.partial-*")) or (place / step).exists()


def _wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _BOUND
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def killed(chain: Chain, moments: int, seed: int) -> list[Kill]:
    """Return ``moments`` kills, the steps in turns, each at a random moment."""
    chance = random.Random(seed)
    kills: list[Kill] = []
    for number in range(moments):
        step = STEPS[number % len(STEPS)]
        kill = None
        while kill is None:
            kill = chain.kill(step, chance.random())
        kills.append(kill)
        print(f"{number + 1:3} {kill}", file=sys.stderr, flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the kills there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="killed-steps-") as folder:
        chain = Chain(Path(folder), probes=True)
        kills = killed(chain, arguments.moments, arguments.seed)
    by_step = {step: [kill for kill in kills if kill.step == step] for step in STEPS}
    for step, of_step in by_step.items():
        left = sum(kill.folders_left for kill in of_step)
        print(f"{step:10} {len(of_step)} kills, {left} temporary folders left and removed, the same bytes after each")
    if arguments.json:
        content = {
            "command": " ".join(["python", "-m", "tests.benchmarks.killed_steps", *sys.argv[1:]]),
            "undisturbed_seconds": chain.seconds,
            "kills": [asdict(kill) for kill in kills],
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
