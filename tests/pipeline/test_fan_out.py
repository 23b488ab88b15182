"""Pages drawn in partitions: the same dataset as one process makes, through KFP's loop and without it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from PIL import Image

from components.prepare.config import PrepareConfig
from components.prepare.stages import assemble, draw, select
from components.prepare.step import run
from components.shared.errors import UserError
from pipelines.task_side.artifact_metadata import partition_folders
from pipelines.task_side.resolution import resolve
from tests.pipeline.deepsynth_run import command, finish, finish_well, started, tasks_of, tracked_runs

SETTINGS = {
    "prepare.eval_fraction": 0.3,
    "prepare.font_sizes": "[14, 16]",
    "prepare.max_train_pages": 12,
    "prepare.max_eval_pages": 3,
    "prepare.max_samples_per_shard": 5,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven documents: two have the same text, and one has a letter that no font draws."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(9):
        words = " ".join(f"word{number}x{place}" for place in range(20 + 15 * number))
        (folder / f"{number}.txt").write_text(f"Document {number}. {words}.")
    (folder / "copy.txt").write_text((folder / "3.txt").read_text())
    (folder / "odd.txt").write_text("A private letter \ue123 stands here, and no font has it.")
    return folder


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Without KFP: the three stages by themselves.


@pytest.mark.parametrize("partitions", [1, 2, 5, 13])
def test_any_number_of_partitions_makes_the_bytes_of_one_process(source: Path, tmp_path: Path, partitions: int) -> None:
    def config(name: str) -> PrepareConfig:
        return PrepareConfig(
            source=str(source),
            output_dir=tmp_path / name,
            eval_fraction=0.3,
            font_sizes=[14, 16],
            max_train_pages=12,
            max_eval_pages=3,
            max_samples_per_shard=5,
            workers=1,
        )

    alone = run(config("alone"))
    parts = config("parts")
    select(parts, tmp_path / "selection")
    for partition in reversed(range(partitions)):
        draw(parts, tmp_path / "selection", tmp_path / f"pages{partition}", partition, partitions)
    folders = [tmp_path / f"pages{partition}" for partition in range(partitions)]
    merged = assemble(parts, tmp_path / "selection", folders, tmp_path / "parts")
    assert merged == alone
    assert merged.splits["train"].samples == 12 and len(merged.splits["train"].shardlist) == 3
    assert sum(merged.dropped.values()) > 0
    assert files(tmp_path / "parts") == files(tmp_path / "alone")


# The partitions that KFP passes to the merge.


def pages_of(partition: int, partitions: int) -> dsl.Artifact:
    # Numbers arrive as floats.
    return dsl.Artifact(
        uri=f"/pages/{partition}", metadata={"partition": float(partition), "partitions": float(partitions)}
    )


def test_partitions_are_merged_by_number_in_whatever_order_they_arrive() -> None:
    arrived = [pages_of(number, 12) for number in (11, 2, 0, 10, 1, 9, 3, 8, 4, 7, 5, 6)]
    assert partition_folders(arrived) == [Path(f"/pages/{number}") for number in range(12)]


@pytest.mark.parametrize("arrived", [[], [2], [0, 1], [0, 1, 1], [0, 1, 2, 2]])
def test_a_partition_that_is_missing_or_doubled_is_never_merged(arrived: list[int]) -> None:
    with pytest.raises(UserError, match="arrived"):
        partition_folders([pages_of(number, 3) for number in arrived])


# The inputs that decide whether KFP's cache supplies the first task.


def test_the_digest_that_goes_into_the_cache_covers_every_source(source: Path, tmp_path: Path) -> None:
    for name in ("more", "held"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("A text.")
    settings = {
        "more_sources": [{"source": str(tmp_path / "more"), "weight": 0.5}],
        "holdout": {"source": str(tmp_path / "held")},
    }
    config = yaml.safe_dump({"source": str(source), "prepare": settings})
    digests = [resolve(config, {}).source_digest]
    assert resolve(config, {}).source_digest == digests[0]
    for name in ("more", "held"):
        (tmp_path / name / "a.txt").write_text("Another text.")
        digests.append(resolve(config, {}).source_digest)
    assert len(set(digests)) == 3


# Through the command line and KFP's local runner.


def in_three(source: Path | str, model: Path, **settings: str) -> list[str]:
    given = SETTINGS | {"base_model": model, "source": source} | settings
    return command(given, "--prepare-partitions", "3")


@pytest.fixture(scope="module")
def finished(source: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The root and the output of a finished run with three partitions, which the gate did not promote.

    Its held-out pages come from one document, too few for a verdict. It skips the benchmark.
    """
    root, printed, said = finish_well([*in_three(source, model), "--skip", "benchmark"], tmp_path_factory)
    return root, said + printed


@pytest.mark.slow
def test_a_run_in_partitions_leaves_the_dataset_of_one_process(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = finished[0] / "runs" / "r1"
    filled = resolve((folder / "config.yaml").read_text(), {}).prepare
    settings: dict[str, Any] = json.loads(filled) | {"output_dir": tmp_path / "alone"}
    alone = run(PrepareConfig.model_validate(settings))
    assert files(folder / "dataset") == files(tmp_path / "alone")
    assert json.loads((folder / "summary.json").read_text())["dataset_digest"] == alone.digest
    assert {path.name for path in folder.iterdir()} == {
        *("dataset", "adapter", "evaluation", "gate"),
        *("pipeline.log", "config.yaml", "summary.json"),
    }


@pytest.mark.slow
def test_its_tasks_are_shown_one_after_the_other_and_summed_as_one_step(finished: tuple[Path, str]) -> None:
    root, progress = finished
    assert [line for line in progress.splitlines() if line.endswith("...")][1:6] == [
        "[2/10] prepare (select documents) ...",
        "[3/10] prepare (draw partition 1 of 3) ...",
        "[4/10] prepare (draw partition 2 of 3) ...",
        "[5/10] prepare (draw partition 3 of 3) ...",
        "[6/10] prepare (assemble the dataset) ...",
    ]
    assert progress.count("done in") == 9
    seconds = json.loads((root / "runs" / "r1" / "summary.json").read_text())["seconds_per_step"]
    assert set(seconds) == {"configure", "prepare", "train", "evaluate", "gate"}
    shown = [
        float(line.split(" done in ")[1].split()[0])
        for line in progress.splitlines()
        if "prepare (" in line[:16] and "done" in line
    ]
    assert seconds["prepare"] == pytest.approx(sum(shown), abs=0.3) and len(shown) == 5


@pytest.mark.slow
def test_a_run_that_is_not_promoted_is_a_success_that_says_why(finished: tuple[Path, str]) -> None:
    root, said = finished
    summary = json.loads((root / "runs" / "r1" / "summary.json").read_text())
    assert summary["gate"]["decision"] == "not promoted" and "all of one document" in summary["gate"]["reason"]
    assert summary["paths"]["package"] is None and summary["paths"]["benchmark"] is None
    assert summary["benchmark"] is None and "benchmark:    skipped" in said
    assert f"not promoted: {summary['gate']['reason']}" in said and "package:" not in said
    page = (root / "runs" / "r1" / summary["paths"]["verdict"]).read_text()
    assert page.startswith("# Not promoted") and summary["gate"]["reason"][1:] in page
    gate = tracked_runs(root).nested["gate"]
    assert gate.info.status == "FINISHED" and gate.data.tags["gate"] == "not promoted"
    assert gate.data.metrics["promoted"] == 0


@pytest.mark.slow
def test_mlflow_has_one_run_of_prepare_with_the_result(finished: tuple[Path, str]) -> None:
    tracked = tracked_runs(finished[0])
    assert set(tracked.nested) == {"prepare", "train", "evaluate", "gate"}
    assert {run.info.status for run in tracked.runs} == {"FINISHED"}
    prepared = tracked.nested["prepare"]
    assert prepared.data.metrics["train_pages"] == 12
    artifacts = {entry.path for entry in tracked.client.list_artifacts(prepared.info.run_id)}
    assert {"manifest.json", "preview.html"} <= artifacts


@pytest.mark.slow
def test_a_partition_whose_process_is_killed_is_named(model: Path, tmp_path: Path) -> None:
    # So many pages that the second partition is still drawing when it is killed.
    long = tmp_path / "long"
    long.mkdir()
    for number in range(60):
        (long / f"{number}.txt").write_text(" ".join(f"word{number}x{place}" for place in range(3000)))
    run = in_three(long, model, **{"prepare.max_train_pages": "3000"})
    process, said = started(run, tmp_path, until="draw partition 2 of 3) ...")
    (task,) = tasks_of(process)
    task.kill()  # as the kernel does when memory runs out
    assert process.wait(timeout=300) == 1
    error = said.read_text()
    # The third partition is drawn or ended before the run ends; the error must name the second one.
    assert "error: prepare (draw partition 2 of 3): its process ended without an error of its own" in error
    assert "Traceback" not in error and "assemble" not in error
    assert {path.name for path in (tmp_path / "runs").iterdir()} <= {"r1.failed.log", "mlflow.db", "mlartifacts"}


@pytest.mark.slow
def test_an_error_in_a_partition_that_the_user_can_mend_is_one_line(model: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(6):
        Image.new("RGB", (224, 224), "white").save(scans / f"{number}.png")
        (scans / f"{number}.txt").write_text(f"Scan {number}.")
    whole = (scans / "3.png").read_bytes()
    (scans / "3.png").write_bytes(whole[: len(whole) // 2])  # its size can be read, its pixels cannot
    answer = finish(in_three(f"images:{scans}", model), tmp_path)
    assert answer.returncode == 2
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: prepare (") and "3.png" in line
    assert "Traceback" not in answer.stderr
