"""A new user's first hour, through the command line alone: own documents, an interrupted run, two runs compared, the
package used. All tests look at the same two runs.
"""

import json
import re
import signal
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.newcomer.own_documents import SCANS, SCRIPTS, write_documents
from tests.pipeline.deepsynth_run import DEEPSYNTH, finish, started, wait_for

pytestmark = pytest.mark.slow
# What a newcomer changes in the file that `deepsynth init` writes; small numbers, because this is a test.
EDITS = {
    "base_model": "tiny-base",
    "prepare": {
        "more_sources": [{"source": "images:scans"}],
        "font_sizes": [20],
        "lines_per_page": [1, 2],
        "eval_fraction": 0.3,
        "max_train_pages": 24,
        "max_eval_pages": 10,
    },
    "train": {"max_steps": 12, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1},
    "evaluate": {"max_new_tokens": 24, "bootstrap_resamples": 100, "classic_ocr": False},
    "gate": {"min_improvement": -1000, "min_documents": 2, "max_loop_rate_increase": 1},
    "benchmark": {"max_steps": 2, "warmup_steps": 1, "cer_pages": 0, "generation_tokens": 0},
}


@dataclass(frozen=True)
class FirstHour:
    """What was left and what was printed.

    Attributes:
        root: the working folder.
        refused: what the first run printed, which has no fonts for two scripts.
        interrupted: what the interrupted run printed.
        resumed: what the resumed one printed.
        second: what the second run printed.
        parent_when_interrupted: the interrupted run's parent in MLflow, before it was resumed.
    """

    root: Path
    refused: str
    interrupted: str
    resumed: str
    second: str
    parent_when_interrupted: Run

    def json(self, path: str) -> dict:
        return json.loads((self.root / "runs" / path).read_text())


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> FirstHour:
    root = tmp_path_factory.mktemp("newcomer")
    write_documents(root)
    said(["init", "my.yaml"], root)
    edit(root / "my.yaml", EDITS)
    refused = finish([DEEPSYNTH, "run", "--config", "my.yaml", "--run-id", "refused"], root).stderr
    if "install" in refused:
        pytest.skip(f"make system-packages: {refused.splitlines()[-1]}")
    edit(root / "my.yaml", {"prepare": {"fonts": ["DejaVu Sans", *re.findall(r"add '([^']+)' to fonts", refused)]}})
    interrupted = interrupted_while_training(["run", "--config", "my.yaml", "--run-id", "first"], root)
    parent = parents(root)["first"]
    resumed = said(["run", "--resume", "first"], root)
    # A gate that nothing passes: this run ends well without a package.
    other = ["--set=train.learning_rate=2e-3", "--set=gate.min_improvement=0.99"]
    second = said(["run", "--config", "my.yaml", "--run-id", "second", *other], root)
    return FirstHour(root, refused, interrupted, resumed, second, parent)


def said(arguments: list[str], root: Path) -> str:
    """Run ``deepsynth`` without an error and return all that it printed."""
    answer = finish([DEEPSYNTH, *arguments], root)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout + answer.stderr


def edit(file: Path, edits: dict) -> None:
    values = yaml.safe_load(file.read_text())
    for key, value in edits.items():
        values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(values, sort_keys=False))


def interrupted_while_training(arguments: list[str], root: Path) -> str:
    process, stderr = started([DEEPSYNTH, *arguments], root, until="train ...")
    (events,) = root.glob("runs/.first.partial-*/kfp/events.jsonl")
    trained = re.compile(r'"description": "train", "done": [1-9]')
    wait_for(lambda: trained.search(events.read_text()) is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    return stderr.read_text()


def store(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root / 'runs' / 'mlflow.db'}")


def all_runs(root: Path) -> list[Run]:
    client = store(root)
    return list(client.search_runs([client.get_experiment_by_name("deepsynth").experiment_id]))


def parents(root: Path) -> dict[str, Run]:
    """Return MLflow's parent runs by the pipeline run's id."""
    found = [run for run in all_runs(root) if "mlflow.parentRunId" not in run.data.tags]
    assert len({run.data.tags["kfp.run_id"] for run in found}) == len(found)
    return {run.data.tags["kfp.run_id"]: run for run in found}


def test_missing_fonts_are_named_and_adding_them_suffices(hour: FirstHour) -> None:
    assert "no font covers Devanagari" in hour.refused and "Han" in hour.refused
    assert "Traceback" not in hour.refused
    assert parents(hour.root)["refused"].info.status == "FAILED"
    assert not (hour.root / "runs" / "refused").exists()


def test_documents_of_four_scripts_a_pdf_and_scans_are_read(hour: FirstHour) -> None:
    preview = (hour.root / "runs" / "first" / "dataset" / "preview.html").read_text()
    for script in SCRIPTS:
        assert re.search(rf"{script}-\d\.txt", preview), script
    assert "invoice.pdf" in preview and re.search(r"scan-\d\.png", preview)
    manifest = hour.json("first/dataset/manifest.json")
    assert sum(manifest["documents"].values()) > SCANS
    assert manifest["unread_kinds"] == {".docx": 1}
    assert "files of kinds that are not read: 1 .docx" in hour.second
    assert not [reason for reason in manifest["dropped"] if "glyph" in reason or "font" in reason]


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(hour: FirstHour) -> None:
    assert "interrupted" in hour.interrupted and "Traceback" not in hour.interrupted
    assert "go on with: deepsynth run --resume first" in hour.interrupted
    assert "prepare (kept) done" in hour.resumed
    assert hour.json("first/adapter/training.json")["steps"] == EDITS["train"]["max_steps"]
    assert not (hour.root / "runs" / "first.failed").exists()


def test_the_interrupted_runs_parent_was_not_finished_and_the_resumed_ones_is(hour: FirstHour) -> None:
    assert hour.parent_when_interrupted.info.status == "KILLED"
    now = parents(hour.root)["first"]
    assert now.info.run_id == hour.parent_when_interrupted.info.run_id and now.info.status == "FINISHED"


def test_mlflows_parents_carry_what_runs_are_compared_by(hour: FirstHour) -> None:
    found = {name: parent for name, parent in parents(hour.root).items() if name != "refused"}
    assert set(found) == {"first", "second"}
    assert [float(found[name].data.params["learning_rate"]) for name in ("first", "second")] == [2e-4, 2e-3]
    for name, parent in found.items():
        report = hour.json(f"{name}/evaluation/report.json")
        figures = {row["name"]: row["cer"] for row in report["rows"]}
        assert parent.data.metrics["base_cer"] == pytest.approx(figures["base"])
        assert parent.data.metrics["adapter_cer"] == pytest.approx(figures["adapter"])
        assert {"adapter_cer_low", "adapter_cer_high", "train_seconds"} <= set(parent.data.metrics)
        (dataset,) = parent.inputs.dataset_inputs
        assert report["dataset"]["digest"].startswith(dataset.dataset.digest)
        assert dataset.dataset.name == "documents, images:scans"
    first, second = (found[name].data.params for name in ("first", "second"))
    # The second run has no package, hence no settings of export.
    differing = {key for key in first.keys() & second.keys() if first[key] != second[key]}
    assert differing == {"learning_rate", "gate.min_improvement"}
    assert [found[name].data.tags["gate"] for name in ("first", "second")] == ["promoted", "not promoted"]


def test_no_parameter_holds_a_temporary_path(hour: FirstHour) -> None:
    runs = all_runs(hour.root)
    assert len(runs) > 10
    for run in runs:
        held = {key: value for key, value in run.data.params.items() if str(hour.root) in value or ".partial" in value}
        assert not held, run.info.run_name


def test_the_list_has_both_runs_with_verdict_and_error_rate(hour: FirstHour) -> None:
    listed = said(["list"], hour.root)
    for name, verdict in (("first", "promoted"), ("second", "not promoted")):
        (line,) = [one for one in listed.splitlines() if f" {name} " in one]
        cer = next(row["cer"] for row in hour.json(f"{name}/summary.json")["rows"] if row["name"] == "adapter")
        assert verdict in line and f"{cer:.2%}" in line


def test_the_runs_are_compared_on_one_page(hour: FirstHour) -> None:
    printed = said(["compare", "first", "second", "-o", "compare.html"], hour.root)
    (rate,) = [line for line in printed.splitlines() if "learning_rate" in line]
    assert "0.0002" in rate and "0.002" in rate
    assert "paired over" in printed
    page = (hour.root / "compare.html").read_text()
    assert "learning_rate" in page and "<svg" in page


def test_the_package_reads_a_picture_and_a_pdf_as_json(hour: FirstHour) -> None:
    (archive,) = (hour.root / "runs" / "first" / "package").glob("*.zip")
    zipfile.ZipFile(archive).extractall(hour.root / "unpacked")
    (program,) = (hour.root / "unpacked").rglob("inference.py")
    pages = ["scans/scan-0.png", "documents/invoice.pdf"]
    answer = finish([sys.executable, str(program), "--json", "--max_new_tokens=24", *pages], hour.root)
    assert answer.returncode == 0, answer.stderr
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [line["file"] for line in lines] == [pages[0], pages[1], pages[1]]
    assert all(line["text"] for line in lines)
    assert not list((hour.root / "runs" / "second").glob("package/*.zip"))
