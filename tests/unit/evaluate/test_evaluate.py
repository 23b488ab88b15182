"""The evaluate step on real pages with a randomly initialised small model, and common user errors."""

import io
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save

from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import EvaluateResult
from components.evaluate.readers.generation import transcribe
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.step import run
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.models.adapter_loading import load_fine_tuned
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.programs.step_command import step_main
from components.shared.reading.transcriber import Prediction, PreparedPages, Transcriber
from components.shared.scoring.edit_counts import character_edits
from components.shared.scoring.text_normalization import normalizer
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl
from components.shared.tracking.model_registry import register, set_alias
from tests.fixtures.dataset_fixture import Page, write_dataset
from tests.fixtures.training_record import training_record

PAGES = [
    Page("A first page <script>alert(1)</script>\nwith two lines", "one.txt"),
    Page("Its second page", "one.txt", page=2, font="serif"),
    Page("Another document & its text", "two.txt"),
    Page("اللغة العربية", "three.txt", lang="ar", font="serif"),
    Page("", "four.txt"),
    Page("A picture that is none", "five.txt", image_bytes=b"not a picture"),
    Page("short", "six.txt", instruction="Read this."),
]
BROKEN = 5


@pytest.fixture(scope="module", autouse=True)
def _no_tracking() -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_blank_paddleocr_vl(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    """A LoRA adapter with random weights in both of its matrices, so that its readings differ from its base's."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = load_model(str(base), dtype=torch.float32, device=torch.device("cpu"))
    config = LoraConfig(
        r=4, lora_alpha=64, target_modules=family_of("paddleocr_vl").language_modules, init_lora_weights=False
    )
    folder = base.with_name("adapter")
    get_peft_model(model, config).save_pretrained(folder)
    load_processor(str(base)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dataset"
    write_dataset(folder, PAGES)
    return folder


def settings(base: Path | str, dataset: Path, output: Path, **changes: object) -> EvaluateConfig:
    values = {
        "dataset_dir": dataset,
        "base_model": str(base),
        "output_dir": output,
        "max_new_tokens": 12,
        "per_device_eval_batch_size": 4,
        "bootstrap_resamples": 100,
        "classic_ocr": False,
    }
    return EvaluateConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def result(base: Path, adapter: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    output = tmp_path_factory.mktemp("evaluation") / "evaluation"
    return run(settings(base, dataset, output, adapter_dir=adapter, classic_ocr=True))


def samples_of(result: EvaluateResult, model: str) -> list[dict]:
    table = pq.read_table(result.folder / "samples.parquet")
    return [row for row in table.to_pylist() if row["model"] == model]


def test_every_page_is_scored_by_every_model(result: EvaluateResult) -> None:
    names = [row.name for row in result.report.rows]
    assert names[:2] == ["base", "adapter"]
    assert ("tesseract" in names) == (shutil.which("tesseract") is not None)
    for name in names:
        rows = samples_of(result, name)
        assert [row["text"] for row in rows] == [page.text for page in PAGES]
        assert [row["source_id"] for row in rows] == [page.source_id for page in PAGES]


def test_the_figures_follow_from_the_predictions_on_disk(result: EvaluateResult) -> None:
    normalise = normalizer("nfkc-ws-v1")
    for row in result.report.rows:
        pages = samples_of(result, row.name)
        again = [character_edits(normalise(page["text"]), normalise(page["prediction"])) for page in pages]
        assert [(page["edits"], page["reference_length"]) for page in pages] == [
            (counts.edits, counts.reference_length) for counts in again
        ]
        assert row.cer == sum(c.edits for c in again) / sum(c.reference_length for c in again)
        assert row.cer_interval is not None and row.cer_interval[0] <= row.cer <= row.cer_interval[1]


def test_a_page_that_fails_is_an_empty_prediction_with_its_error(result: EvaluateResult) -> None:
    broken = samples_of(result, "base")[BROKEN]
    assert broken["prediction"] == "" and "UnidentifiedImageError" in broken["error"]
    assert broken["edits"] == broken["reference_length"] == len(PAGES[BROKEN].text)
    assert result.report.rows[0].failure_rate == 1 / len(PAGES)
    assert all(row["error"] is None for index, row in enumerate(samples_of(result, "base")) if index != BROKEN)


def test_predictions_without_an_end_are_truncated(result: EvaluateResult) -> None:
    rows = samples_of(result, "base")
    assert all(row["truncated"] for index, row in enumerate(rows) if index != BROKEN)
    assert not rows[BROKEN]["truncated"]


def test_the_adapter_reads_otherwise_and_is_compared_in_pairs(result: EvaluateResult) -> None:
    assert [r["prediction"] for r in samples_of(result, "base")] != [
        r["prediction"] for r in samples_of(result, "adapter")
    ]
    to_base = result.report.comparison("base")
    assert to_base is not None
    assert to_base.cer.difference == pytest.approx(result.report.rows[0].cer - result.report.rows[1].cer)


def test_every_other_row_is_compared_with_the_adapter_and_tested_page_by_page(result: EvaluateResult) -> None:
    report = EvaluationReport.read(result.folder)
    names = [row.name for row in result.report.rows]
    assert [entry.against for entry in report.comparisons] == [name for name in names if name != "adapter"]
    mine = [page["edits"] for page in samples_of(result, "adapter")]
    for entry in report.comparisons:
        others = [page["edits"] for page in samples_of(result, entry.against)]
        assert entry.sign_test.better == sum(a < b for a, b in zip(mine, others, strict=True))
        assert entry.sign_test.worse == sum(a > b for a, b in zip(mine, others, strict=True))
        other, adapter = report.row(entry.against), report.row("adapter")
        assert other is not None and adapter is not None
        assert (entry.cer.reference, entry.cer.candidate) == (other.cer, adapter.cer)
        assert entry.cer.difference == other.cer - adapter.cer  # positive: the adapter is better


def test_breakdowns_split_the_pages_and_their_edits(result: EvaluateResult) -> None:
    report = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    assert list(report["breakdowns"]) == ["source", "folder", "lang", "script", "task", "font", "resolution"]
    assert [(entry["value"], entry["pages"]) for entry in report["breakdowns"]["script"]] == [
        ("Latin", 5), ("(no letters)", 1), ("Arabic", 1),
    ]  # fmt: skip
    assert [(entry["value"], entry["pages"]) for entry in report["breakdowns"]["lang"]] == [("en", 6), ("ar", 1)]
    english, arabic = report["breakdowns"]["lang"]
    assert english["documents"] == 5 and english["models"]["base"]["cer_interval"] is not None
    assert arabic["models"]["base"]["cer_interval"] is None  # one document
    for name in ("base", "adapter"):
        pages = [page for page, about in zip(samples_of(result, name), PAGES, strict=True) if about.lang == "en"]
        expected = sum(page["edits"] for page in pages) / sum(page["reference_length"] for page in pages)
        assert english["models"][name]["cer"] == expected
    assert {(entry["value"], entry["pages"]) for entry in report["breakdowns"]["font"]} == {("serif", 2), ("test", 5)}
    html = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "By language" in html and "By font" in html and "By script" in html
    assert "By task" not in html  # all pages have the same task, so its figures equal the totals


def test_pages_with_most_to_read_come_first_and_results_stand_in_the_datasets_order(
    base: Path, dataset: Path, result: EvaluateResult
) -> None:
    pages = EvaluationPages(ShardDataset(dataset, "eval"), None, 0)
    order = pages.by_expected_length()
    assert sorted(order) == list(range(len(PAGES))) and order != sorted(order) and order[-1] == BROKEN
    alone = [_transcriber(base, max_new_tokens=12).read([pages[i]])[0].text for i in range(3)]
    assert [row["prediction"] for row in samples_of(result, "base")][:3] == alone


def test_of_pages_of_one_size_those_with_most_on_them_come_first(tmp_path: Path) -> None:
    texts = ["one line", "one line\n" * 9, "", "one line\n" * 4]
    write_dataset(
        tmp_path / "alike", [Page(text, f"{i}", image_bytes=_on_a_page(text)) for i, text in enumerate(texts)]
    )
    assert EvaluationPages(ShardDataset(tmp_path / "alike", "eval"), None, 0).by_expected_length() == [1, 3, 0, 2]


def _on_a_page(text: str) -> bytes:
    page = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(page).text((8, 8), text, font=ImageFont.load_default(20), fill=0)
    stream = io.BytesIO()
    page.save(stream, format="PNG")
    return stream.getvalue()


def test_the_report_names_what_it_was_measured_on(result: EvaluateResult, dataset: Path) -> None:
    report = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    assert report["schema_version"] == 2
    assert report["normalization"] == "nfkc-ws-v1"
    assert report["dataset"]["digest"] == json.loads((dataset / "manifest.json").read_text())["digest"]
    assert report["models"]["adapter"]["kind"] == "adapter"
    assert report["versions"]["transformers"]
    assert [row["name"] for row in report["rows"]] == [row.name for row in result.report.rows]
    assert report["comparisons"][0]["cer"]["documents"] == len({page.source_id for page in PAGES})


def test_the_html_report_is_one_file_and_escapes_what_pages_say(result: EvaluateResult) -> None:
    html = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html
    assert 'name="viewport"' in html and 'dir="auto"' in html and "<svg" in html
    # The Arabic page's readings are shown from right to left, whatever text a model wrote.
    readings = sum(row.pages == len(PAGES) for row in result.report.rows)
    assert html.count('dir="rtl"') == readings and html.count('dir="ltr"') == readings * (len(PAGES) - 1)
    assert html.count("data:image/webp;base64,") == len(PAGES) - 1
    assert "The picture cannot be decoded." in html
    # The page loads nothing: its only URLs are XML namespaces and metadata of the SVG.
    assert 'src="http' not in html and "url(http" not in html and "<link" not in html


def test_the_same_settings_give_the_same_predictions(
    base: Path, dataset: Path, result: EvaluateResult, tmp_path: Path
) -> None:
    again = run(settings(base, dataset, tmp_path / "again"))
    assert [row["prediction"] for row in samples_of(again, "base")] == [
        row["prediction"] for row in samples_of(result, "base")
    ]
    assert again.report.comparisons == []
    assert "adapter" not in {row.name for row in again.report.rows}


def test_an_end_token_ends_the_text(base: Path, dataset: Path, tmp_path: Path, result: EvaluateResult) -> None:
    """If the blank model's first token is an end token, the texts are empty and not truncated."""
    stopping = tmp_path / "stopping"
    shutil.copytree(base, stopping)
    config = json.loads((stopping / "generation_config.json").read_text())
    first_tokens = set(range(320))
    config["eos_token_id"] = sorted(first_tokens)
    (stopping / "generation_config.json").write_text(json.dumps(config))
    stopped = run(settings(stopping, dataset, tmp_path / "out"))
    assert [row["prediction"] for row in samples_of(stopped, "base")] == [""] * len(PAGES)
    assert stopped.report.rows[0].truncation_rate == 0
    assert stopped.report.rows[0].cer == 1


def test_max_pages_draws_pages_by_the_seed(base: Path, dataset: Path, tmp_path: Path) -> None:
    def keys(seed: int) -> list[str]:
        pages = EvaluationPages(ShardDataset(dataset, "eval"), 3, seed)
        return [pages[position].key for position in range(len(pages))]

    assert keys(0) == keys(0) and len(keys(0)) == 3
    assert len({tuple(keys(seed)) for seed in range(10)}) > 1


def test_max_pages_reads_a_page_of_every_document_before_a_second_one(tmp_path: Path) -> None:
    pages = [Page(f"page {number}", "long", number + 1) for number in range(12)]
    pages += [Page(f"short {number}", f"short{number}") for number in range(4)]
    write_dataset(tmp_path / "data", pages)
    for seed in range(4):
        chosen = EvaluationPages(ShardDataset(tmp_path / "data", "eval"), 6, seed)
        found = [chosen[position].metadata["source_id"] for position in range(len(chosen))]
        assert sorted(found) == ["long", "long", "short0", "short1", "short2", "short3"]


def test_a_whole_model_counts_as_adapter_after_full_fine_tuning(base: Path, dataset: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    save_blank_paddleocr_vl(tuned, seed=1)
    found = run(settings(base, dataset, tmp_path / "out", adapter_dir=tuned, max_pages=2))
    report = json.loads((found.folder / "report.json").read_text(encoding="utf-8"))
    assert report["models"]["adapter"]["kind"] == "model"


def _transcriber(base: Path, kind: type[Transcriber] = Transcriber, max_new_tokens: int = 6) -> Transcriber:
    model = load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()
    return kind(model, load_processor(str(base)), family_of("paddleocr_vl"), max_new_tokens)


class _SmallMemory(Transcriber):
    """A device that holds two pages."""

    def read_prepared(self, prepared: PreparedPages) -> list[Prediction]:
        if prepared.pages > 2:
            raise torch.OutOfMemoryError("no room")
        return super().read_prepared(prepared)


class _Holding(_SmallMemory):
    """Fails while it holds a batch's tensors; that memory must be free for the next batch."""

    held: weakref.ref[torch.Tensor] | None = None

    def read_prepared(self, prepared: PreparedPages) -> list[Prediction]:
        assert self.held is None or self.held() is None, "the failed batch is still in memory"
        batch = torch.zeros(prepared.pages)
        self.held = weakref.ref(batch)
        return super().read_prepared(prepared)


class _Faulty(Transcriber):
    def read_prepared(self, prepared: PreparedPages) -> list[Prediction]:
        raise TypeError("a fault of the program")


@pytest.mark.parametrize("threads", [0, 2])
def test_out_of_memory_halves_the_batch_and_goes_on(base: Path, dataset: Path, threads: int) -> None:
    pages = EvaluationPages(ShardDataset(dataset, "eval"), None, 0)
    found = transcribe(pages, _transcriber(base, _SmallMemory), 7, "base", threads)
    assert found.memory_halvings == 2 and found.batch_size == 1  # 7 -> 3 -> 1
    plain = transcribe(pages, _transcriber(base), 1, "base")
    assert [p.text for p in found.predictions] == [p.text for p in plain.predictions]


def test_a_batch_that_failed_leaves_its_memory_to_the_next_one(base: Path, dataset: Path) -> None:
    # One of the pages cannot be decoded: two kinds of error.
    pages = EvaluationPages(ShardDataset(dataset, "eval"), None, 0)
    found = transcribe(pages, _transcriber(base, _Holding), 7, "base")
    assert found.memory_halvings == 2 and sum(bool(page.error) for page in found.predictions) == 1


def test_batches_that_threads_prepare_are_read_alike(base: Path, tmp_path: Path) -> None:
    """Five batches, four of them prefetched; a thread finds that one page cannot be decoded."""
    write_dataset(tmp_path / "more", [Page(f"page {'x' * i}", f"{i}") for i in range(9)] + [PAGES[BROKEN]])
    pages = EvaluationPages(ShardDataset(tmp_path / "more", "eval"), None, 0)
    plain = transcribe(pages, _transcriber(base), 2, "base")
    ahead = transcribe(pages, _transcriber(base), 2, "base", threads=4)
    assert [(p.text, p.error is None) for p in ahead.predictions] == [
        (p.text, p.error is None) for p in plain.predictions
    ]
    assert sum(p.error is not None for p in ahead.predictions) == 1


def test_a_fault_on_every_page_is_not_scored_as_bad_reading(base: Path, dataset: Path) -> None:
    pages = EvaluationPages(ShardDataset(dataset, "eval"), None, 0)
    with pytest.raises(TypeError, match="a fault of the program"):
        transcribe(pages, _transcriber(base, _Faulty), 7, "base")


def test_a_folder_without_adapter_is_a_user_error_and_leaves_nothing(base: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither an adapter"):
        run(settings(base, dataset, tmp_path / "out", adapter_dir=tmp_path / "empty"))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_adapter_of_another_base_is_a_user_error(base: Path, adapter: Path, tmp_path: Path) -> None:
    options = {"dtype": torch.float32, "device": torch.device("cpu")}
    config = json.loads((adapter / "adapter_config.json").read_text())
    for change, message in (({"target_modules": ["no_such"]}, "cannot be put"), ({"r": 8}, "cannot be put")):
        other = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(adapter, other)
        (other / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            load_fine_tuned(str(base), other, **options)
    fewer = tmp_path / "fewer"
    shutil.copytree(adapter, fewer)
    modules = {"target_modules": ".*language_model.*q_proj"}
    (fewer / "adapter_config.json").write_text(json.dumps({**config, **modules}))
    with pytest.raises(UserError, match="does not fit the base"):
        load_fine_tuned(str(base), fewer, **options)


def _damaged(adapter: Path, folder: Path, weights: bytes) -> Path:
    shutil.copytree(adapter, folder)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_an_adapter_whose_file_is_cut_is_named_before_anything_is_read(
    base: Path, adapter: Path, dataset: Path, tmp_path: Path
) -> None:
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        cut = _damaged(adapter, tmp_path / f"cut{length}", whole[:length])
        with pytest.raises(UserError, match=r"adapter_model.safetensors: .* truncated or corrupt"):
            run(settings(base, dataset, tmp_path / "out", adapter_dir=cut))
    assert not (tmp_path / "out").exists()


def test_a_base_or_a_whole_model_whose_file_is_cut_is_named(base: Path, dataset: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(base, cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"base_model '.*cut': the weights cannot be read: .*truncated or corrupt"):
        run(settings(cut, dataset, tmp_path / "out"))
    with pytest.raises(UserError, match=r"model\.safetensors: the weights cannot be read: .*truncated or corrupt"):
        run(settings(base, dataset, tmp_path / "out", adapter_dir=cut))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(
    base: Path, adapter: Path, dataset: Path, tmp_path: Path, value: float
) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = sorted(weights)[3]
    weights[name].view(-1)[-1] = value
    bad = _damaged(adapter, tmp_path / "bad", save(weights))
    with pytest.raises(UserError, match=f"1 of {len(weights)} weights hold NaN or infinite values, first {name}"):
        run(settings(base, dataset, tmp_path / "out", adapter_dir=bad))


def test_a_whole_model_of_nan_weights_is_named(base: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    save_blank_paddleocr_vl(tuned, seed=1)
    weights = load_file(tuned / "model.safetensors")
    weights[sorted(weights)[0]].view(-1)[0] = float("nan")
    (tuned / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
    with pytest.raises(UserError, match=r"1 of .* weights hold NaN"):
        load_fine_tuned(str(base), tuned, dtype=torch.float32, device=torch.device("cpu"))


def test_an_adapter_that_was_trained_on_another_base_is_refused_by_name(
    adapter: Path, dataset: Path, tmp_path: Path
) -> None:
    trained = _damaged(adapter, tmp_path / "trained", (adapter / "adapter_model.safetensors").read_bytes())
    training_record(base_model="some/Model", config={"revision": "aaa"}).write(trained)
    with pytest.raises(UserError, match="another base: it was trained on 'some/Model', base_model is 'tiny-base'"):
        run(settings("tiny-base", dataset, tmp_path / "out", adapter_dir=trained))
    with pytest.raises(UserError, match="trained on revision 'aaa'"):
        run(settings("some/Model", dataset, tmp_path / "out", adapter_dir=trained, revision="bbb"))
    (trained / "training.json").write_text("{")
    with pytest.raises(UserError, match=r"training.json: cannot be read as JSON"):
        run(settings("tiny-base", dataset, tmp_path / "out", adapter_dir=trained))


def test_pages_of_documents_that_were_trained_on_are_refused_with_their_ids(base: Path, tmp_path: Path) -> None:
    training = [Page("Seen in training", f"{name}.txt") for name in ("six", "two", "other")]
    write_dataset(tmp_path / "mixed", PAGES, training)
    with pytest.raises(UserError, match=r"shares 2 document\(s\) with training: six.txt, two.txt"):
        run(settings(base, tmp_path / "mixed", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_equal_names_in_two_sources_are_no_shared_document_but_equal_pages_are(base: Path, tmp_path: Path) -> None:
    """With a holdout the ids come from two folders; 0001.txt in one folder is not the 0001.txt of the other."""
    holdout = {"holdout": {"source": "elsewhere"}}
    write_dataset(tmp_path / "named_alike", PAGES, [Page("Of another source", "two.txt")], **holdout)
    found = run(settings(base, tmp_path / "named_alike", tmp_path / "out", max_pages=1))
    report = json.loads((found.folder / "report.json").read_text())
    assert report["dataset"]["training_documents"] == "none among these pages"
    write_dataset(tmp_path / "same", PAGES, [PAGES[2], PAGES[3]], **holdout)
    with pytest.raises(UserError, match=r"2 document\(s\) with training: three.txt, two.txt"):
        run(settings(base, tmp_path / "same", tmp_path / "out2"))


def test_training_pages_can_be_read_on_purpose_and_the_report_says_so(base: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "mixed", PAGES[:1], PAGES[:1])
    found = run(settings(base, tmp_path / "mixed", tmp_path / "out", split="train"))
    assert json.loads((found.folder / "report.json").read_text())["dataset"]["training_documents"] == (
        "these are the pages"
    )


@pytest.mark.parametrize(
    ("trained_on", "said"),
    [
        ("this one", "none among these pages"),
        ("f" * 64, "not checked: trained on another dataset"),
        (None, "not checked: no training.json says on what"),
    ],
)
def test_what_another_training_has_seen_is_not_vouched_for(
    base: Path, adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, trained_on: str | None, said: str
) -> None:
    digest = write_dataset(tmp_path / "dataset", PAGES)
    ours = shutil.copytree(adapter, tmp_path / "adapter")
    if trained_on:
        training_record(dataset_digest=digest if trained_on == "this one" else trained_on).write(ours)
    found = run(settings(base, tmp_path / "dataset", tmp_path / "out", adapter_dir=ours, max_pages=2))
    report = json.loads((found.folder / "report.json").read_text())
    assert report["models"]["adapter"]["training_documents"] == said
    assert report["dataset"]["training_documents"] == "none among these pages"
    shown = (found.folder / "report.html").read_text()
    for text, place in (
        ("it is not known whether it has seen these pages", caplog.text),
        ("It is not known whether the adapter", shown),
    ):
        assert (text in place) == said.startswith("not checked")


def test_a_split_without_pages_is_a_user_error(base: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "empty", [], PAGES[:1])
    with pytest.raises(UserError, match="the split 'eval' has no samples"):
        run(settings(base, tmp_path / "empty", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_labels_without_any_text_are_a_user_error(base: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "blank", [Page(" \n", "a"), Page("", "b")])
    with pytest.raises(UserError, match="hold no text"):
        run(settings(base, tmp_path / "blank", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_base_model_that_does_not_exist_is_a_user_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        run(settings(Path("./nowhere").absolute(), dataset, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may run here")
def test_unsloth_without_a_cuda_device_is_refused(base: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backend: Unsloth cannot run: no CUDA device on this machine"):
        run(settings(base, dataset, tmp_path / "out", backend="unsloth"))
    assert not (tmp_path / "out").exists()


def test_what_unsloth_patches_is_not_imported_before_it() -> None:
    program = "import sys, components.evaluate.__main__; print({'transformers', 'peft', 'torch'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr


def test_an_encoder_for_bertscore_that_is_none_is_named_before_anything_is_read(
    base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"bertscore_model .*: cannot be loaded"):
        run(settings(base, dataset, tmp_path / "out", bertscore_model=dataset))
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output_dir", str(tmp_path / "out"), "--dataset_dir", str(tmp_path / "nowhere")]
    assert step_main("evaluate", EvaluateConfig, run, flags) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "no dataset manifest" in said.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_registrys_champion_reads_the_same_pages(
    base: Path, adapter: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No alias: no row. With one: a row and a comparison. Missing files, or files for another base, are named."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    changes = {"adapter_dir": adapter, "champion": "reader", "max_pages": 4}
    first = run(settings(base, dataset, tmp_path / "first", **changes))
    assert [row.name for row in first.report.rows] == ["base", "adapter"]

    registered = register(adapter, "reader", {})
    set_alias(registered, "champion")
    found = run(settings(base, dataset, tmp_path / "second", **changes))
    assert [row.name for row in found.report.rows] == ["base", "adapter", "champion"]
    texts = [[page["prediction"] for page in samples_of(found, name)] for name in ("adapter", "champion")]
    assert texts[0] == texts[1]
    report = json.loads((found.folder / "report.json").read_text(encoding="utf-8"))
    champion = report["models"]["champion"]
    assert (champion["registered_model"], champion["version"]) == ("reader", 1)
    assert champion["sha256"] == report["models"]["adapter"]["sha256"]
    assert report["comparisons"][1]["against"] == "champion" and report["comparisons"][1]["cer"]["difference"] == 0
    assert "reader version 1" in (found.folder / "report.html").read_text(encoding="utf-8")

    other = _damaged(adapter, tmp_path / "other", b"no weights")
    set_alias(register(other, "reader", {}), "champion")
    with pytest.raises(UserError, match=r"reader version 2: the champion cannot be read: .*truncated or corrupt"):
        run(settings(base, dataset, tmp_path / "third", **changes))
    for weights in list(tmp_path.glob("mlartifacts/**/adapter_model.safetensors")):
        shutil.rmtree(weights.parent)
    with pytest.raises(UserError, match=r"reader version 2 .*files are gone"):
        run(settings(base, dataset, tmp_path / "third", **changes))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(UserError, match="there is no registry"):
        run(settings(base, dataset, tmp_path / "third", **changes))
    assert not (tmp_path / "third").exists()
