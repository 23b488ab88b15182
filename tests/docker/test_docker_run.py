"""`deepsynth run --runner docker` as a program of an ordinary user: complete, killed half-way, interrupted, refused."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import psutil
import pytest

from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl
from pipelines.local.docker_containers import RUN_LABEL
from tests.docker.conftest import TREE, Images
from tests.docker.ordinary_user import as_user, foreign_files, given_to_user, settings, user_id
from tests.pipeline.deepsynth_run import tracked_runs, wait_for

pytestmark = pytest.mark.docker

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))
STEPS = {"prepare", "train", "evaluate", "benchmark", "gate", "export"}
FEW_PAGES = {"prepare__max_documents": 12, "prepare__max_train_pages": 16, "prepare__max_eval_pages": 4}
ALWAYS_PROMOTED = {"gate__min_improvement": -1000, "gate__min_documents": 2, "gate__max_loop_rate_increase": 1}
VERIFIED = {"export__verify": "true"}
ENOUGH_SECONDS = 900


@dataclass(frozen=True)
class Place:
    """An ordinary user's folders: home, and a folder with documents and a model that belong to somebody else."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "work" / "runs"

    def command(self, image: str, **given: object) -> list[str]:
        model = {"base_model": "../model", "source": "../documents", "prepare__lines_per_page": "[1, 3]"}
        options = settings(**(FEW_PAGES | ALWAYS_PROMOTED | model | given))
        return as_user([DEEPSYNTH, "run", "--runner", "docker", "--image", image, "--run-id", "r1", *options])

    def environment(self, **given: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "KFP", "HF_"))}
        return kept | {"HOME": str(self.root / "home"), "USER": "tester", "PYTHONPATH": str(TREE)} | given

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(**variables)
        return subprocess.run(
            command, cwd=self.root / "work", env=environment, capture_output=True, text=True, timeout=ENOUGH_SECONDS
        )

    @contextmanager
    def started(self, command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        said = self.root / "said"
        with said.open("w") as stderr:
            process = subprocess.Popen(command, cwd=self.root / "work", env=self.environment(), stderr=stderr)
        try:
            yield process, said
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)


def make_place(root: Path) -> Place:
    given_to_user(root / "work")
    given_to_user(root / "home")
    save_blank_paddleocr_vl(root / "model")
    for file in (root / "model").iterdir():
        file.chmod(0o644)  # safetensors writes files for their owner alone
    (root / "documents").mkdir()
    for number in range(12):
        text = "\n".join(f"Line {line} of document {number} says {number * line}." for line in range(4))
        (root / "documents" / f"{number}.txt").write_text(text)
    return Place(root)


@pytest.fixture
def place(folder: Path) -> Place:
    return make_place(folder)


def containers_of_runs(engine: docker.DockerClient) -> list[str]:
    # Containers of another checkout's runs on the same engine have the label too.
    found = engine.containers.list(all=True, filters={"label": RUN_LABEL}, ignore_removed=True)
    return [container.id for container in found if container.labels[RUN_LABEL].startswith("r1-")]


def test_the_whole_pipeline_runs_as_the_calling_user(engine: docker.DockerClient, images: Images, place: Place) -> None:
    answer = place.run(place.command(images.step, **VERIFIED))
    log = place.runs / "r1.failed.log"
    assert answer.returncode == 0, answer.stderr + (log.read_text()[-6000:] if log.exists() else "")
    folder = place.runs / "r1"

    assert answer.stderr.count("done in") == 7 and "[1/7] configure ..." in answer.stderr
    assert "promoted:" in answer.stdout and "│ adapter" in answer.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["seconds_per_step"]) == {"configure", *STEPS}
    assert {row["name"] for row in summary["rows"]} == {"base", "adapter"}
    assert summary["peak_memory_bytes"]["largest_process"] > 200 * 2**20
    assert summary["peak_memory_bytes"]["all_processes"] > 200 * 2**20
    assert {path.name for path in folder.iterdir()} == {
        *("dataset", "adapter", "evaluation", "benchmark", "gate", "package"),
        *("pipeline.log", "config.yaml", "summary.json"),
    }
    assert {path.name for path in place.runs.iterdir()} - {".checkpoints"} == {"r1", "mlflow.db", "mlartifacts"}

    assert foreign_files(place.root / "work") == [] and foreign_files(place.root / "home") == []
    assert (folder / "adapter").stat().st_uid == user_id()
    tracked = tracked_runs(place.root / "work")
    assert set(tracked.nested) == STEPS and tracked.parent.info.status == "FINISHED"
    assert containers_of_runs(engine) == []


def test_a_training_whose_container_is_killed_goes_on_from_its_checkpoint(
    engine: docker.DockerClient, images: Images, place: Place
) -> None:
    checkpoints = place.root / "work" / "checkpoints"
    training = {"train__max_steps": 30, "train__checkpoint_dir": "checkpoints", "train__save_steps": 5}
    with place.started(place.command(images.step, **training)) as (process, said):
        wait_for(lambda: list(checkpoints.glob("*/checkpoint-*/checkpoint.json")), seconds=ENOUGH_SECONDS)
        engine.containers.get(containers_of_runs(engine)[0]).kill()
        wait_for(lambda: "[3/7] train done" in said.read_text(), seconds=ENOUGH_SECONDS)
        (training_file,) = place.runs.glob(".r1.partial-*/kfp/**/training.json")
        training_report = json.loads(training_file.read_text())
        wait_for(lambda: containers_of_runs(engine), seconds=300)
        # SIGTERM while a step works: its container ends with the run.
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 130
    assert training_report["steps"] == 30 and min(training_report["resumed_after_steps"]) >= 5
    assert list(checkpoints.iterdir()) == []
    words = said.read_text()
    assert (
        "the container was killed (by SIGKILL, as the kernel does when memory runs out): it is started again" in words
    )
    assert "go on with: deepsynth run --resume r1" in words
    assert words.count("[3/7] train ...") == 2
    assert containers_of_runs(engine) == []
    # SQLite's journal stays after a writer was killed; the next writer uses it.
    kept = {"r1.failed", "r1.failed.log"}
    assert {path.name for path in place.runs.iterdir()} - kept - {".checkpoints"} <= {
        "mlflow.db",
        "mlflow.db-journal",
        "mlartifacts",
    }
    assert {"dataset", "adapter"} <= {path.name for path in (place.runs / "r1.failed").iterdir()}
    assert foreign_files(place.root / "work") == []


def test_a_run_whose_command_is_killed_outright_ends_its_containers_and_no_others(
    engine: docker.DockerClient, images: Images, place: Place
) -> None:
    # The container of another run with the same name.
    other = engine.containers.run(images.step, ["sleep", "600"], detach=True, labels={RUN_LABEL: "r1-another"})
    try:
        with place.started(place.command(images.step)) as (process, _):
            wait_for(lambda: len(containers_of_runs(engine)) == 2, seconds=300)
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            wait_for(lambda: containers_of_runs(engine) == [other.id], seconds=300)
            psutil.wait_procs(children, timeout=60)
        other.reload()
        assert other.status == "running"
        assert not (place.runs / "r1").exists()
    finally:
        with suppress(docker.errors.NotFound):
            other.remove(force=True)


def one_line(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 2, answer.stderr
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in answer.stderr
    return line


def test_what_keeps_containers_from_starting_is_one_line(
    engine: docker.DockerClient, images: Images, place: Place
) -> None:
    missing = one_line(place.run(place.command("deepsynth-pipelines-python:0.0.1-none")))
    assert missing.startswith("error: --runner docker: deepsynth-pipelines-python:0.0.1-none: no such image")
    assert missing.endswith("build it with: make images")
    assert "needs a tag" in one_line(place.run(place.command("deepsynth-pipelines-python")))
    assert "needs a tag" in one_line(place.run(place.command("localhost:5000/deepsynth-pipelines-python:latest")))
    dockerfile = io.BytesIO(f"FROM {images.step}\nLABEL org.opencontainers.image.version=0.0.1".encode())
    other = engine.images.build(fileobj=dockerfile, rm=True)[0]
    other.tag("deepsynth-other-python", "0.0.1-abc")
    try:
        said = one_line(place.run(place.command("deepsynth-other-python:0.0.1-abc")))
        assert "the image holds version 0.0.1 of this project, and this is" in said and "make images" in said
    finally:
        engine.images.remove(other.id, force=True)
    nowhere = one_line(place.run(place.command(images.step), DOCKER_HOST=f"unix://{place.root}/none.sock"))
    assert f"no Docker engine is running: there is no {place.root}/none.sock" in nowhere
    hidden = one_line(place.run(place.command(images.step, source="/usr")))
    assert hidden.startswith("error: /usr: cannot be mounted into the steps' containers")
    assert not list(place.runs.glob("r1*")) and not list(place.runs.glob(".r1*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone outside of the engine's group")
def test_a_user_outside_of_the_engines_group_is_told_what_to_do(images: Images, place: Place) -> None:
    command = place.command(images.step)
    command[command.index("--groups") + 1] = "12345"
    socket = os.environ["DOCKER_HOST"].removeprefix("unix://")
    said = one_line(place.run(command))
    assert f"no permission to use the Docker engine's socket {socket}" in said and "usermod" in said
