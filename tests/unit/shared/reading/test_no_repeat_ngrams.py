"""The rule against loops: which tokens it rules out, and that every way of reading obeys it alike."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run
from components.export.step import run as export
from components.shared.datasets.shard_reader import Sample
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.graphed_decoding import GraphedDecoding
from components.shared.reading.no_repeat_settings import NoRepeatSettings
from components.shared.reading.transcriber import Transcriber
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl, save_tiny_deepseek_ocr2
from tests.fixtures.dataset_fixture import Page, drawn, write_dataset
from tests.fixtures.export_fixture import export_config, make_sources

VOCABULARY = 5


def ruled_out(answer: list[int], size: int, window: int | None, allowed: tuple[int, ...]) -> set[int]:
    """Return the tokens that would repeat a sequence, found one start after the other."""
    recent = answer[-window:] if window else answer
    sequences = [recent[start : start + size] for start in range(len(recent) - size + 1)]
    ending = answer[len(answer) - size + 1 :]
    return {sequence[-1] for sequence in sequences if sequence[:-1] == ending} - set(allowed)


@pytest.mark.parametrize("window", [None, 2, 5, 9])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_what_would_repeat_a_sequence_of_the_window_is_ruled_out(size: int, window: int | None) -> None:
    draw, found = random.Random(0), 0
    for allowed in ((), (1, 3)):
        rule = NoRepeatNgrams(size, window, allowed)
        for length in range(1, 24):
            rows = [[draw.randrange(VOCABULARY) for _ in range(length)] for _ in range(4)]
            expected = [ruled_out(row, size, window, allowed) for row in rows]
            found += sum(map(len, expected))
            answers, scores = torch.tensor(rows), torch.randn(4, VOCABULARY)
            buffer = torch.cat([answers, torch.zeros(4, 30 - length, dtype=torch.long)], dim=1)
            for changed in (rule.scores(scores, answers, length), rule.scores(scores, buffer, torch.tensor([length]))):
                gone = [set(torch.nonzero(row == -torch.inf)[:, 0].tolist()) for row in changed]
                assert gone == expected
                kept = changed != -torch.inf
                assert torch.equal(changed[kept], scores[kept])
    assert found or (window or 99) <= size + 1, "a window of one sequence more than the ending is rarely repeated"


class Reader:
    """A blank model, whose answers loop, and a page for it."""

    def __init__(self, folder: Path, family: str) -> None:
        {"paddleocr_vl": save_blank_paddleocr_vl, "deepseek_ocr2": save_tiny_deepseek_ocr2}[family](folder)
        self.model = load_model(str(folder), dtype=torch.float32, device=torch.device("cpu")).eval()
        self.processor = load_processor(str(folder))
        self.family = family_of(family)
        self.pages = [Sample(text, drawn(text), {"text": text}) for text in ("aaa", "one boat")]

    def answers(self, rule: NoRepeatNgrams | None, graphed: bool) -> list[list[int]]:
        """Return the tokens of each page's answer."""
        reader = Transcriber(self.model, self.processor, self.family, 40, graphed=graphed, no_repeat=rule)
        inputs = reader.prepare(self.pages).inputs
        with torch.inference_mode():
            return reader._generated(inputs)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("family", ["paddleocr_vl", pytest.param("deepseek_ocr2", marks=pytest.mark.slow)])
def test_recorded_decoding_and_generate_obey_it_alike(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GraphedDecoding, "supports", lambda decoding: True)
    reader = Reader(tmp_path / "base", family)
    loops = reader.answers(None, graphed=False)
    assert loops == reader.answers(None, graphed=True)
    for rule in (NoRepeatNgrams(2), NoRepeatNgrams(3, 12)):
        found = reader.answers(rule, graphed=True)
        assert found == reader.answers(rule, graphed=False) != loops
        for answer in found:
            for start in range(len(answer) - (rule.window or len(answer)) + 1):
                window = answer[start : start + (rule.window or len(answer))]
                sequences = [tuple(window[at : at + rule.size]) for at in range(len(window) - rule.size + 1)]
                assert len(set(sequences)) == len(sequences)


def test_the_family_s_numbers_are_those_of_its_authors(tmp_path: Path) -> None:
    save_tiny_deepseek_ocr2(tmp_path)
    processor, family = load_processor(str(tmp_path)), family_of("deepseek_ocr2")
    assert NoRepeatSettings.of({"no_repeat_ngram_size": "family"}, family) == NoRepeatSettings(20, 90)
    assert NoRepeatSettings.of({"no_repeat_ngram_size": "family-pdf"}, family) == NoRepeatSettings(20, 50)
    with pytest.raises(UserError, match="no_repeat_ngram_size 'family-pdf'"):
        NoRepeatSettings.of({"no_repeat_ngram_size": "family-pdf"}, family_of("paddleocr_vl"))
    processor.tokenizer.add_tokens(["<td>", "</td>"])
    cells = processor.tokenizer.convert_tokens_to_ids(["<td>", "</td>"])
    assert NoRepeatSettings(20, 90).rule(processor, family) == NoRepeatNgrams(20, 90, tuple(cells))
    assert NoRepeatSettings.of({}, family).rule(processor, family) is None


def config(made: Path, output: Path, **changes: Any) -> EvaluateConfig:
    places = {"dataset_dir": made / "dataset", "base_model": str(made / "base"), "adapter_dir": made / "adapter"}
    quick = {"max_new_tokens": 24, "bootstrap_resamples": 100, "classic_ocr": False, "output_dir": output}
    return EvaluateConfig.model_validate({**places, **quick, **changes})


@pytest.mark.slow
def test_base_adapter_package_and_merged_weights_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    made = make_sources(tmp_path / "made")
    plain = run(config(made, tmp_path / "plain"))
    ruled = run(config(made, tmp_path / "ruled", no_repeat_ngram_size=2, no_repeat_ngram_window=20))
    assert plain.report.reading.decoding() == "greedy search"
    said = "greedy search without repeating 2 tokens in a row within the last 20"
    assert ruled.report.reading.decoding() == said and said in (tmp_path / "ruled" / "report.html").read_text()
    for name in ("base", "adapter"):
        assert plain.report.row(name).cer != ruled.report.row(name).cer
    packed = export(
        export_config(made, tmp_path / "package", evaluation_dir=tmp_path / "ruled", verify=True, merge=True)
    )
    assert packed.lineage["verification"]["compared_with"] == "evaluation" and packed.lineage["merged"]["pages"]


@pytest.mark.parametrize(
    "changes",
    [
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": "always"},
        {"no_repeat_ngram_window": 90},
        {"no_repeat_ngram_size": "family", "no_repeat_ngram_window": 90},
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no_repeat_ngram"):
        config(tmp_path, tmp_path / "out", **changes)


def test_a_family_whose_authors_publish_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    write_dataset(tmp_path / "dataset", [Page("a page", "one")])
    with pytest.raises(UserError, match="the authors of the family 'paddleocr_vl' publish no such rule"):
        run(config(tmp_path, tmp_path / "out", base_model="tiny-base", adapter_dir=None, no_repeat_ngram_size="family"))
    assert not (tmp_path / "out").exists()
