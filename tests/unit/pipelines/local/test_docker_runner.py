"""`deepsynth run --runner docker`, as far as it works without an engine: mounts, variables, killed containers."""

import json
import os
from pathlib import Path

import pytest

from components.shared.errors import UserError
from pipelines.local.docker_engine import connected_engine
from pipelines.local.docker_mounts import mounts, with_home_expanded
from pipelines.local.local_runner import _Watched
from tests.pipeline.deepsynth_run import command, finish


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("documents", "scans", "model", "shards", "runs", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "letters.ttf").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seen(config: dict, here: Path, **environment: str) -> dict[str, bool]:
    """Return relative path -> read-only, for the mounts inside ``here``."""
    found = mounts(config, here / "runs", f"sqlite:///{here / 'runs' / 'mlflow.db'}", environment)
    return {str(Path(path).relative_to(here)): only for path, only in found.items() if Path(path).is_relative_to(here)}


def test_what_the_configuration_names_is_only_read(here: Path) -> None:
    config = {
        "source": "documents",
        "base_model": str(here / "model"),
        "prepare": {
            "fonts": ["letters.ttf", "DejaVuSans.ttf"],
            "more_sources": [{"source": "images:scans"}, {"source": "shards/{000..003}.tar"}, {"source": "hf:a/b"}],
        },
    }
    only_read = dict.fromkeys(("documents", "model", "letters.ttf", "scans", "shards"), True)
    assert seen(config, here) == only_read | {"runs": False}


def test_what_steps_write_can_be_written_and_is_made(here: Path) -> None:
    config = {"train": {"checkpoint_dir": "kept", "vision_features_dir": str(here / "features")}}
    assert seen(config, here, DEEPSYNTH_CHECKPOINTS=str(here / "all")) == dict.fromkeys(
        ("kept", "features", "all", "runs"), False
    )
    assert (here / "kept").is_dir()


def test_links_out_of_a_folder_bring_what_they_lead_to(here: Path) -> None:
    (here / "elsewhere" / "blob").write_bytes(b"weights")
    (here / "model" / "model.safetensors").symlink_to("../elsewhere/blob")
    (here / "model" / "gone").symlink_to("../nothing")
    assert seen({"base_model": "model"}, here) == {"model": True, "elsewhere": True, "runs": False}


def test_a_file_that_a_variable_names_is_read(here: Path) -> None:
    (here / "ca.pem").write_text("")
    assert seen({}, here, REQUESTS_CA_BUNDLE=str(here / "ca.pem")) == {"ca.pem": True, "runs": False}


@pytest.mark.parametrize("path", ["/", "/usr", "/opt", "/tmp", "/etc"])
def test_nothing_hides_the_images_own_files(here: Path, path: str) -> None:
    with pytest.raises(UserError, match=f"^{path}: cannot be mounted into the steps' containers"):
        seen({"source": path}, here)


def test_home_is_the_users_not_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = {"source": "images:~/scans", "prepare": {"fonts": ["~/a.ttf", "b.ttf"]}, "seed": 1}
    assert with_home_expanded(config) == {
        "source": "images:/home/me/scans",
        "prepare": {"fonts": ["/home/me/a.ttf", "b.ttf"]},
        "seed": 1,
    }


def test_no_engine_is_one_line_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    answer = finish(command({}, "--runner", "docker"), tmp_path)
    assert answer.returncode == 2 and "Traceback" not in answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith(f"error: --runner docker: no Docker engine is running: there is no {tmp_path}/none.sock;")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the Docker engine at tcp://127.0.0.1:9 does not answer"):
        connected_engine()
    assert os.environ["DOCKER_HOST"] == "tcp://127.0.0.1:9"


def watched(*events: dict) -> _Watched:
    run = _Watched()
    for number, event in enumerate(events):
        run.note({"step": "train", "time": float(number)} | json.loads(json.dumps(event)))
    return run


def test_a_container_that_is_started_again_is_a_warning_and_no_failure() -> None:
    killed = {"event": "killed", "exit_code": 137, "reason": "out of memory", "again": True}
    run = watched({"event": "start"}, killed, {"event": "start"}, {"event": "end", "largest_process": 7})
    assert not run.failed() and not run.running and run.largest_process == 7
    assert run.warnings == ["train: its container was killed (out of memory) and started again"]


def test_a_container_that_is_killed_each_time_is_a_failure() -> None:
    killed = {"event": "killed", "exit_code": 137, "reason": "out of memory"}
    run = watched({"event": "start"}, killed | {"again": True}, {"event": "start"}, killed | {"again": False})
    assert run.failed() and "out of memory" in run.killed


def test_a_task_that_ended_without_a_word_is_a_failure() -> None:
    assert watched({"event": "start"}, {"event": "start"}).failed()
    assert watched({"event": "start"}).running
