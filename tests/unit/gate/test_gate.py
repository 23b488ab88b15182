"""The gate on evaluations with made-up counts: what is promoted, what is not, and what cannot be compared."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluate.report.samples_file import SCHEMA
from components.gate.config import GateConfig
from components.gate.step import run
from components.shared.artifacts.evaluation_report import ChampionReader
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.errors import UserError
from tests.fixtures.report_fixture import evaluation_report, report_row

LENGTH = 1000
PROFILE = "nfkc-ws-v1"


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def rows(model: str, edits: Sequence[int], loops: int = 0, pages_per_document: int = 1) -> list[dict[str, Any]]:
    """Return a page of 1,000 characters and 200 words for each number of edits; the last ``loops`` pages loop."""
    return [
        {
            "model": model,
            "key": f"page{number:05d}",
            "source_id": f"document{number // pages_per_document}",
            "edits": count,
            "reference_length": LENGTH,
            "word_edits": count // 10,
            "reference_words": LENGTH // 5,
            "loop": number >= len(edits) - loops,
        }
        for number, count in enumerate(edits)
    ]


def evaluation(
    folder: Path,
    *models: list[dict[str, Any]],
    champion: bool = False,
    profile: str = PROFILE,
    split: str = "eval",
    seen: str = "none among these pages",
) -> Path:
    """Write the two files that the gate reads, as the evaluate step writes them."""
    folder.mkdir()
    table = pa.Table.from_pylist([row for model in models for row in model], schema=SCHEMA)
    pq.write_table(table.replace_schema_metadata({"normalization": profile}), folder / "samples.parquet")
    names = ["base", "adapter", *(["champion"] if champion else [])]
    report = evaluation_report("d" * 64, [report_row(name, 0.1) for name in names], dataset={"split": split})
    content = report.model_dump(mode="json")
    content["models"]["adapter"]["training_documents"] = seen
    (folder / "report.json").write_text(json.dumps(content))
    return folder


def judged(tmp_path: Path, *models: list[dict[str, Any]], champion: bool = False, **settings: Any) -> GateVerdict:
    folder = evaluation(tmp_path / "evaluation", *models, champion=champion)
    result = run(GateConfig(evaluation_dir=folder, output_dir=tmp_path / "verdict", **settings))
    assert GateVerdict.read(tmp_path / "verdict") == result.verdict
    assert {path.name for path in (tmp_path / "verdict").iterdir()} == {"verdict.json", "verdict.md"}
    page = (tmp_path / "verdict" / "verdict.md").read_text()
    assert page.startswith(f"# {result.verdict.decision.capitalize()}\n")
    assert result.verdict.reason[1:] in page
    return result.verdict


def test_a_better_adapter_is_promoted_with_the_figures_that_decided(tmp_path: Path) -> None:
    verdict = judged(tmp_path, rows("base", [100, 120] * 50), rows("adapter", [50, 70] * 50))
    assert verdict.promoted and verdict.decision == "promoted" and verdict.reference == "base"
    assert verdict.reference_error == pytest.approx(0.11) and verdict.challenger_error == pytest.approx(0.06)
    assert verdict.improvement == pytest.approx(0.05)
    # Every page is better by 50 characters, so the difference is the same in every resample.
    assert verdict.improvement_interval == pytest.approx((0.05, 0.05))
    assert (verdict.pages, verdict.documents, verdict.normalization) == (100, 100, PROFILE)
    assert "the CER is 5.00 points lower than the base's" in verdict.reason
    assert verdict.tags()["gate.improvement"] == "0.05" and verdict.tags()["gate"] == "promoted"


def test_a_worse_and_an_equal_adapter_are_not(tmp_path: Path) -> None:
    (tmp_path / "worse").mkdir()
    worse = judged(tmp_path / "worse", rows("base", [50] * 20), rows("adapter", [51] * 20))
    assert not worse.promoted and "the CER is 0.10 points higher than the base's" in worse.reason
    equal = judged(tmp_path, rows("base", [50] * 20), rows("adapter", [50] * 20))
    assert equal.decision == "not promoted" and equal.improvement == 0


def test_an_improvement_that_may_be_chance_is_not_enough(tmp_path: Path) -> None:
    # 5 points better on average: one document gains all of it, the other nine lose a little.
    verdict = judged(tmp_path, rows("base", [100] * 10), rows("adapter", [0] + [105] * 9))
    assert verdict.improvement == pytest.approx(0.0055)
    assert verdict.improvement_interval is not None
    assert verdict.improvement_interval[0] < 0 < verdict.improvement_interval[1]
    assert not verdict.promoted and "does not begin above 0.00 points" in verdict.reason


@pytest.mark.parametrize(("min_improvement", "promoted"), [(0.0499, True), (0.0501, False), (-0.5, True)])
def test_the_bound_must_clear_the_least_improvement(tmp_path: Path, min_improvement: float, promoted: bool) -> None:
    models = rows("base", [100] * 20), rows("adapter", [50] * 20)
    assert judged(tmp_path, *models, min_improvement=min_improvement).promoted is promoted


def test_documents_are_drawn_and_not_pages(tmp_path: Path) -> None:
    # 7 of 10 pages gain 20, 3 lose 20. With pages as units the gain is significant, with four documents it is not.
    base, adapter = [100] * 200, ([80] * 7 + [120] * 3) * 20
    (tmp_path / "pages").mkdir()
    assert judged(tmp_path / "pages", rows("base", base), rows("adapter", adapter)).promoted
    adapter = [80] * 140 + [120] * 60
    models = rows("base", base, pages_per_document=50), rows("adapter", adapter, pages_per_document=50)
    verdict = judged(tmp_path, *models, min_documents=4)
    assert verdict.documents == 4 and not verdict.promoted


def test_the_champion_is_the_reference_where_there_is_one(tmp_path: Path) -> None:
    models = rows("base", [200] * 20), rows("adapter", [100] * 20), rows("champion", [90] * 20)
    verdict = judged(tmp_path, *models, champion=True)
    assert not verdict.promoted and verdict.reference == "champion" and "than the champion's" in verdict.reason
    assert isinstance(verdict.reference_model, ChampionReader) and verdict.reference_model.version == 7
    assert "version 7" in (tmp_path / "verdict" / "verdict.md").read_text()


@pytest.mark.parametrize(
    ("pages", "base_loops", "adapter_loops", "promoted"),
    [
        (100, 0, 0, True),
        (100, 5, 0, True),
        (100, 6, 7, True),  # one page in a hundred: 0.07 - 0.06 is above 0.01 in floating point
        (100, 0, 2, False),  # by more than is allowed
        (1000, 0, 2, True),  # 2 pages of 1,000 may be chance
        (1000, 0, 8, False),  # allowed, but significant: a resample has 0 of 8 once in 3,000
    ],
)
def test_the_loop_rate_may_not_worsen(
    tmp_path: Path, pages: int, base_loops: int, adapter_loops: int, promoted: bool
) -> None:
    models = rows("base", [100] * pages, base_loops), rows("adapter", [50] * pages, adapter_loops)
    verdict = judged(tmp_path, *models)
    assert verdict.promoted is promoted
    assert verdict.loop_rate_improvement == (base_loops - adapter_loops) / pages
    assert [rule.passed for rule in verdict.rules] == [True, promoted]
    assert ("loop rate" in verdict.reason) is not promoted


def test_one_document_gives_no_interval_and_no_promotion(tmp_path: Path) -> None:
    models = rows("base", [100] * 8, pages_per_document=8), rows("adapter", [0] * 8, pages_per_document=8)
    verdict = judged(tmp_path, *models)
    assert not verdict.promoted and verdict.improvement_interval is None
    assert "all of one document" in verdict.reason
    assert "none (one document)" in (tmp_path / "verdict" / "verdict.md").read_text()


@pytest.mark.parametrize(
    ("documents", "settings", "promoted"),
    [(10, {}, True), (9, {}, False), (9, {"min_documents": 9}, True), (10, {"min_documents": 11}, False)],
)
def test_too_few_documents_promote_nothing_however_good_the_adapter_is(
    tmp_path: Path, documents: int, settings: dict[str, int], promoted: bool
) -> None:
    verdict = judged(tmp_path, rows("base", [900] * documents), rows("adapter", [0] * documents), **settings)
    assert verdict.promoted is promoted and [rule.passed for rule in verdict.rules] == [promoted, True]
    least = settings.get("min_documents", 10)
    said = f"the CER cannot be judged: {documents} documents, fewer than min_documents ({least})"
    assert (verdict.reason == said) is not promoted
    assert verdict.improvement_interval == pytest.approx((0.9, 0.9)), "what was measured is there all the same"
    assert f"over {least} documents or more" in (tmp_path / "verdict" / "verdict.md").read_text()


def test_words_can_decide(tmp_path: Path) -> None:
    verdict = judged(tmp_path, rows("base", [100] * 10), rows("adapter", [50] * 10), metric="wer")
    assert verdict.reference_error == pytest.approx(10 / 200) and "the WER is" in verdict.reason


def other_keys(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), [row | {"key": "x" + row["key"]} for row in rows("adapter", [1] * 4)])


def one_page_less(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 3))


def another_label(folder: Path) -> None:
    changed = rows("adapter", [1] * 4)
    changed[2]["reference_length"] += 1
    evaluation(folder, rows("base", [9] * 4), changed)


def page_twice(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4) + rows("adapter", [1]))


def null_count(folder: Path) -> None:
    changed = rows("adapter", [1] * 4)
    changed[1]["edits"] = None
    evaluation(folder, rows("base", [9] * 4), changed)


def no_text(folder: Path) -> None:
    empty = [row | {"reference_length": 0} for row in rows("base", [0] * 4) + rows("adapter", [0] * 4)]
    evaluation(folder, empty)


def no_champion_row(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4), champion=True)


def champion_not_named(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4), rows("champion", [2] * 4))


def report_of_an_older_version(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4))
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "schema_version": 1}))


def columns_gone(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4))
    path = folder / "samples.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["loop"]), path)


def counts_as_text(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4))
    table = pq.read_table(folder / "samples.parquet")
    place = table.schema.get_field_index("edits")
    pq.write_table(table.set_column(place, "edits", table["edits"].cast(pa.string())), folder / "samples.parquet")


def report_without_adapter(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4))
    report = json.loads((folder / "report.json").read_text())
    report["models"]["adapter"] = None
    (folder / "report.json").write_text(json.dumps(report))


def samples_cut(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4))
    path = folder / "samples.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def report_cut(folder: Path) -> None:
    evaluation(folder, rows("base", [9] * 4), rows("adapter", [1] * 4))
    (folder / "report.json").write_text('{"normalization": "nfkc')


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (other_keys, "adapter and base have no pages in common"),
        (one_page_less, r"only one of adapter and base read 1 of the pages \(page00003\)"),
        (another_label, "page 'page00002' has another label for the base"),
        (page_twice, "page 'page00000' of 'adapter' is there twice"),
        (null_count, "page 'page00001' of 'adapter' lacks a count"),
        (no_text, "no label holds any text"),
        (no_champion_row, "the champion is named but has no row"),
        (columns_gone, "has no columns loop"),
        (counts_as_text, "the columns edits are of another type"),
        (report_without_adapter, r"report\.json: the evaluation had no adapter; evaluate with an adapter_dir"),
        (samples_cut, r"samples\.parquet: cannot be read"),
        (report_cut, r"report\.json: cannot be read"),
        (lambda folder: evaluation(folder, rows("base", [9])), "there is no row of the adapter"),
        (lambda folder: evaluation(folder, rows("adapter", [9])), "there is no row of a champion, nor of the base"),
        (
            lambda folder: evaluation(folder, rows("base", [9]), rows("adapter", [1]), profile="lenient-v1"),
            "normalised by 'lenient-v1', the report says 'nfkc-ws-v1'",
        ),
        (report_of_an_older_version, "report.json has the schema version 1, this version of deepsynth reads 2"),
        (champion_not_named, "the champion has a row that the report does not name"),
        (Path.mkdir, r"report\.json: cannot be read"),
        (
            lambda folder: evaluation(folder, rows("base", [9] * 20), rows("adapter", [1] * 20), split="train"),
            "the pages are the training's own",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, broken: Callable[[Path], Any], message: str) -> None:
    broken(tmp_path / "evaluation")
    with pytest.raises(UserError, match=message):
        run(GateConfig(evaluation_dir=tmp_path / "evaluation", output_dir=tmp_path / "verdict"))
    assert not (tmp_path / "verdict").exists()


@pytest.mark.parametrize("seen", ["none among these pages", "not checked: trained on another dataset"])
def test_the_verdict_says_where_it_is_not_known_what_was_trained_on(tmp_path: Path, seen: str) -> None:
    folder = evaluation(tmp_path / "evaluation", rows("base", [9] * 20), rows("adapter", [1] * 20), seen=seen)
    verdict = run(GateConfig(evaluation_dir=folder, output_dir=tmp_path / "verdict")).verdict
    assert verdict.promoted and verdict.training_documents == {"adapter": seen}
    page = (tmp_path / "verdict" / "verdict.md").read_text()
    assert (f"not known whether these pages were trained on**: adapter: {seen}." in page) == seen.startswith(
        "not checked"
    )


def test_the_program_says_not_promoted_and_ends_well(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "evaluation", rows("base", [50] * 10), rows("adapter", [51] * 10))
    program = [sys.executable, "-m", "components.gate"]
    answer = subprocess.run(
        [*program, "--evaluation_dir", str(folder), "--output_dir", str(tmp_path / "v")], capture_output=True, text=True
    )
    assert answer.returncode == 0 and "not promoted: the CER is 0.10 points higher" in answer.stderr
    answer = subprocess.run(
        [*program, "--evaluation_dir", str(tmp_path), "--output_dir", str(tmp_path / "w")],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2 and "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot be read as JSON"),
        ("{}", "verdict.json has no schema version, this version of deepsynth reads 2; run the gate step again"),
        ('{"schema_version": 1, "promoted": true}', "verdict.json has the schema version 1"),
        ('{"schema_version": 2, "promoted": true}', "not a verdict.json of the gate step"),
    ],
)
def test_a_verdict_that_is_not_one_or_is_an_old_one_is_named(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(UserError, match=problem):
        GateVerdict.read(tmp_path)
