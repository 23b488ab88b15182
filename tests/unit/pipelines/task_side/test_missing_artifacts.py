"""Inputs that KFP's cache names and its object store no longer has: each step that reads them says how to go on."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.errors import UserError
from pipelines.task_side import missing_artifacts
from pipelines.task_side.missing_artifacts import named_missing_files

GONE = """
import contextlib, sys
from kfp import dsl
from pipelines.definition import tasks

def artifact(name, kind=dsl.Artifact):
    return kind(uri=f"minio://mlpipeline/{name}")

def output(name, kind=dsl.Artifact):
    return kind(uri=f"OUTPUT/{name}")

dataset, adapter = artifact("dataset", dsl.Dataset), artifact("adapter", dsl.Model)
evaluation, verdict, selection = artifact("evaluation"), artifact("verdict"), artifact("selection")
pages = dsl.Artifact(uri="minio://mlpipeline/pages", metadata={"partition": 0.0, "partitions": 1.0})
calls = {
    "train": lambda: tasks.train.python_func(
        config="{}", base_digest="", dataset=dataset, adapter=output("a"), metrics=output("m", dsl.Metrics)),
    "evaluate": lambda: tasks.evaluate.python_func(
        config="{}", base_digest="", champion="", dataset=dataset, adapter=adapter, evaluation=output("e"),
        report=output("r", dsl.HTML), metrics=output("m", dsl.Metrics)),
    "benchmark": lambda: tasks.benchmark.python_func(
        config="{}", base_digest="", dataset=dataset, comparison=output("c"), report=output("r", dsl.HTML)),
    "gate": lambda: tasks.gate.python_func(
        config="{}", evaluation=evaluation, verdict=output("v"), summary=output("s", dsl.Markdown)),
    "export": lambda: tasks.export.python_func(
        config="{}", dataset=dataset, adapter=adapter, evaluation=evaluation, verdict=verdict, package=output("p"),
        model_card=output("c", dsl.Markdown)),
    "draw": lambda: tasks.draw_pages.python_func(
        partition=0, partitions=1, selection=selection, pages=output("p")),
    "assemble": lambda: tasks.assemble_dataset.python_func(
        source_digest="", selection=selection, pages=[pages], dataset=output("d", dsl.Dataset),
        preview=output("p", dsl.HTML)),
}
for name, call in calls.items():
    print(f"== {name}", file=sys.stderr)
    try:
        call()
    except SystemExit as end:
        print(f"exit {end.code}", file=sys.stderr)
"""


def test_every_step_that_reads_an_input_says_that_it_is_gone_and_how_to_run_without_the_cache(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "MLFLOW_TRACKING_URI": "off", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[4])
    program = textwrap.dedent(GONE).replace("OUTPUT", str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    said = {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in ended.stderr.split("== ")[1:]}
    read = dict.fromkeys(("train", "evaluate", "benchmark", "export"), "dataset")
    read |= {"gate": "evaluation", "draw": "selection", "assemble": "selection"}
    assert set(said) == set(read)
    for task, name in read.items():
        (line,) = [line for line in said[task].splitlines() if "error:" in line.lower()]
        assert f"/minio/mlpipeline/{name}: the input {name} has no files in KFP's object store any more" in line, task
        assert "deepsynth submit --no-cache" in line and "exit 2" in said[task]


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as downloaded by KFP's launcher."""
    monkeypatch.setattr(missing_artifacts, "_DOWNLOADED", (str(tmp_path),))
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "left.txt").touch()
    return folder


def test_a_single_file_that_is_gone_is_named(downloaded: Path) -> None:
    for read in (lambda: EvaluationReport.read(downloaded), lambda: pq.read_schema(downloaded / "samples.parquet")):
        gone = pytest.raises(UserError, match="a file of the input evaluation is gone")
        with gone as caught, named_missing_files({"evaluation": str(downloaded)}):
            read()
        assert str(downloaded) in str(caught.value) and "submit --no-cache" in str(caught.value)


def test_other_errors_stay_what_they_are(downloaded: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), named_missing_files({"evaluation": str(downloaded)}):
        (tmp_path / "elsewhere").read_text()
    with pytest.raises(ValueError, match="something else"), named_missing_files({"evaluation": str(downloaded)}):
        raise ValueError("something else")


def test_a_folder_that_nobody_downloaded_is_not_looked_at(tmp_path: Path) -> None:
    with named_missing_files({"evaluation": str(tmp_path / "nothing")}):
        pass
