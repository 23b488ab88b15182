"""``deepsynth compare``: its report on finished runs, on disk and in a real MLflow store, and what it refuses."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient

from pipelines.command_line import main
from tests.fixtures.finished_runs import finished_run, log_run
from tests.fixtures.mlflow_server import free_port, mlflow_server

GOOD = [20, 30, 40, 50, 60, 70] * 4
BETTER = [edits - 15 for edits in GOOD]
MIXED = [edits + (12 if number % 2 else -12) for number, edits in enumerate(GOOD)]
Said = tuple[int, str, str]
Compare = Callable[..., Said]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Run ``deepsynth compare`` in its own folder; return exit code, standard output and standard error."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "KFP"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["deepsynth", "compare", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(end.value.code or 0), said.out, said.err

    return run


def row_of(printed: str, label: str) -> list[str]:
    """Return the cells of a printed row."""
    (line,) = [line for line in printed.splitlines() if re.search(rf"│ {re.escape(label)} +│", line)]
    return [cell.strip() for cell in line.strip("│").split("│")]


def page_row(page: str, label: str) -> list[str]:
    """Return the cells of a row of the page."""
    (found,) = re.findall(rf"<td>{re.escape(label)}</td>(.*?)</tr>", page)
    return re.findall(r">([^<]*)</td>", found)


def test_two_runs_differ_where_they_do(compare: Compare, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs", "one", GOOD, learning_rate=1e-4, r=8)
    finished_run(tmp_path / "runs", "two", BETTER, learning_rate=3e-4, r=16)
    code, printed, _ = compare("one", "two")
    page = (tmp_path / "compare.html").read_text()
    assert code == 0
    assert row_of(printed, "train.learning_rate") == ["≠", "train.learning_rate", "0.0001", "0.0003"]
    assert page_row(page, "train.r") == ["8", "16"]
    assert "train.lora_alpha" not in printed and "train.lora_alpha" not in page  # equal
    assert row_of(printed, "final loss") == ["≠", "final loss", "0.1000", "0.3000"]
    assert row_of(printed, "peak memory, resident, GiB")[2:] == ["3.00", "3.00"]
    assert row_of(printed, "decision")[2:] == ["promoted", "promoted"]
    assert row_of(printed, "standard, s/step")[2:] == ["0.500", "0.500"]
    assert row_of(printed, "total")[2:] == ["30.0", "30.0"]
    for reference in ("<script", 'src="', 'href="http', "url(http", "@import"):
        assert reference not in page


def test_all_shows_what_is_equal(compare: Compare, tmp_path: Path) -> None:
    for run in ("one", "two"):
        finished_run(tmp_path / "runs", run, GOOD)
    assert "shown with --all" in compare("one", "two")[1]
    printed = compare("one", "two", "--all", "-o", "all.html")[1]
    assert row_of(printed, "train.lora_alpha")[0] == ""
    assert row_of(printed, "torch")[2:] == ["2.13.0", "2.13.0"]
    assert "train.lora_alpha" in (tmp_path / "all.html").read_text()


def test_the_same_pages_are_paired_and_the_sign_is_explained(compare: Compare, tmp_path: Path) -> None:
    for run, edits in (("one", GOOD), ("two", BETTER), ("three", MIXED)):
        finished_run(tmp_path / "runs", run, edits)
    _, printed, _ = compare("one", "two", "three")
    page = (tmp_path / "compare.html").read_text()
    # Every page is better by 15 characters of 1,000, so every resample gives the same difference.
    better = "CER: 4.50 % - 3.00 % = +1.50 (+1.50 to +1.50) points; two is better: its CER is 1.50 points lower"
    assert better in printed
    assert "sign test: two makes fewer character errors on 24 pages, more on 0, as many on 0; p = 1.19e-07" in printed
    assert "equal: both adapters have the same CER" in printed  # one and three have the same mean
    assert "Above zero, two reads better; below zero, one does." in page
    # In the other order the first run is the better one.
    back = compare("two", "one")[1]
    assert "CER: 3.00 % - 4.50 % = -1.50 (-1.50 to -1.50) points; two is better: its CER is 1.50 points lower" in back
    assert "one makes fewer character errors on 0 pages, more on 24" in back


def test_a_difference_that_may_be_chance_is_called_so(compare: Compare, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs", "one", GOOD)
    finished_run(tmp_path / "runs", "two", [*MIXED[:-1], MIXED[-1] - 12])
    said = compare("one", "two")[1]
    assert "not beyond chance: two's CER is 0.05 points lower, and the interval includes zero" in said


def test_other_pages_are_not_paired_and_it_says_why(compare: Compare, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs", "one", GOOD)
    finished_run(tmp_path / "runs", "two", BETTER, texts=("other", "pages"))
    printed = compare("one", "two")[1]
    assert re.search(r"not paired: they evaluated different pages \(dataset digest \w{12}… against \w{12}…\)", printed)
    assert "are not paired:" in (tmp_path / "compare.html").read_text()
    assert row_of(printed, "dataset digest")[0] == "≠"


def test_pages_that_only_one_run_evaluated_are_left_out(compare: Compare, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs", "one", GOOD, pages=slice(0, 20))
    finished_run(tmp_path / "runs", "two", BETTER, pages=slice(6, 24))
    said = compare("one", "two")[1]
    assert "paired over 14 pages of 14 documents; 10 pages that only one of them evaluated are left out" in said


def test_a_run_of_mlflow_is_read_from_what_its_steps_logged(compare: Compare, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "runs", "one", GOOD, learning_rate=1e-4)
    other = finished_run(tmp_path / "elsewhere", "two", BETTER, learning_rate=3e-4)
    log_run(other, f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", "4f1c2d3e-0000-4000-8000-000000000000")
    code, printed, error = compare(str(folder), "4f1c2d3e-0000-4000-8000-000000000000", "--log")
    assert code == 0, error
    assert row_of(printed, "train.learning_rate")[2:] == ["0.0001", "0.0003"]
    assert not [line for line in printed.splitlines() if "dir" in line and "≠" in line]
    assert "two is better" not in printed and "is better: its CER is 1.50 points lower" in printed
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("deepsynth-comparisons")
    (saved,) = client.search_runs([experiment.experiment_id])
    assert re.match(r"\d{8}-\d{6} one against 4f1c2d3e-", saved.info.run_name) and saved.info.status == "FINISHED"
    assert saved.data.metrics["cer_difference_to_4f1c2d3e-0000-4000-8000-000000000000"] == pytest.approx(0.015)
    kept = download_artifacts(run_id=saved.info.run_id, artifact_path="compare.html", tracking_uri=client.tracking_uri)
    assert Path(kept).read_bytes() == (tmp_path / "compare.html").read_bytes()
    # The parent's id names the same run.
    (parent,) = [run for run in client.search_runs(["1"]) if "mlflow.parentRunId" not in run.data.tags]
    code, _, error = compare(parent.info.run_id, "4f1c2d3e-0000-4000-8000-000000000000")
    assert code == 2 and "the run is named twice" in error


def test_what_a_step_did_not_log_is_said(compare: Compare, tmp_path: Path) -> None:
    finished_run(tmp_path / "runs", "one", GOOD)
    other = finished_run(tmp_path / "elsewhere", "two", BETTER)
    log_run(other, f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", "cached", ["evaluate", "gate"])
    code, printed, _ = compare("one", "cached")
    assert code == 0
    page = (tmp_path / "compare.html").read_text()
    assert "there is no training.json: train has no run (cached, or not tracked)" in page
    assert row_of(printed, "final loss")[2:] == ["0.1000", "–"]
    assert "is better" in printed  # the pages are there


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("one run", ["one run cannot be compared", "name two runs or more"]),
        ("no such run", ["two: no such run; it is neither a folder nor in runs"]),
        ("not in mlflow", ["two: no such run; looked for it in runs and in MLflow at sqlite:///"]),
        ("unfinished", ["two: not a finished run: it has no summary.json"]),
        ("running", ["two: the run has not finished; wait for it"]),
        ("failed", ["two: the run failed; its log is runs/two.failed.log"]),
        ("running in mlflow", ["two: the run has not finished (MLflow says RUNNING)"]),
        ("failed in mlflow", ["two: the run did not finish well (MLflow says FAILED)"]),
        (
            "other summary",
            ["summary.json has the schema version 7, this version of deepsynth reads 2; run deepsynth run"],
        ),
        ("other report", ["report.json has the schema version 1, this version of deepsynth reads 2"]),
        ("cut report", ["report.json: cannot be read as JSON"]),
        ("cut samples", ["samples.parquet: the predictions cannot be read"]),
        ("twice", ["the run is named twice"]),
        ("not html", ["--output compare.txt: the file's name must end in .html"]),
        ("server down", ["http://127.0.0.1:", "MLflow cannot be asked for runs", "correct MLFLOW_TRACKING_URI"]),
        ("tracking off", ["MLFLOW_TRACKING_URI: tracking is off"]),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    kind: str, named: list[str], compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    finished_run(runs, "one", GOOD)
    arguments = ["one", "two"]
    if kind in ("unfinished", "other summary", "other report", "cut report", "cut samples"):
        shutil.copytree(runs / "one", runs / "two")
    if kind == "unfinished":
        (runs / "two" / "summary.json").unlink()
    elif kind == "other summary":
        (runs / "two" / "summary.json").write_text(json.dumps({"schema_version": 7}))
    elif kind == "other report":
        (runs / "two" / "evaluation" / "report.json").write_text(json.dumps({"schema_version": 1}))
    elif kind == "cut report":
        (runs / "two" / "evaluation" / "report.json").write_text("{")
    elif kind == "cut samples":
        (runs / "two" / "evaluation" / "samples.parquet").write_bytes(b"PAR1")
    elif kind == "running":
        (runs / ".two.partial-1").mkdir()
    elif kind == "failed":
        (runs / "two.failed.log").touch()
    elif kind in ("not in mlflow", "running in mlflow", "failed in mlflow"):
        client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
        tracked = client.create_run(client.create_experiment("e"), tags={"kfp.run_id": kind.partition(" ")[0]})
        if kind != "not in mlflow":
            client.set_tag(tracked.info.run_id, "kfp.run_id", "two")
        if kind == "failed in mlflow":
            client.set_terminated(tracked.info.run_id, status="FAILED")
    elif kind == "server down":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    elif kind == "tracking off":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    arguments = {"one run": ["one"], "twice": ["one", "runs/one"], "not html": ["one", "one", "-o", "compare.txt"]}.get(
        kind, arguments
    )
    code, printed, error = compare(*arguments)
    assert code == 2 and printed == ""
    assert error.startswith("error: ") and error.count("\n") == 1
    for part in named:
        assert part in error
    assert not list(tmp_path.glob("*compare.*"))


@pytest.mark.slow
def test_a_real_server_is_asked_as_the_file_is(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "runs", "one", GOOD)
    other = finished_run(tmp_path / "elsewhere", "two", BETTER)
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as (address, _):
        log_run(other, address, "on-the-server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        code, printed, error = compare("one", "on-the-server", "--log")
    assert code == 0, error
    assert "on-the-server is better: its CER is 1.50 points lower" in printed
    assert "saved in MLflow: experiment deepsynth-comparisons, run " in printed
