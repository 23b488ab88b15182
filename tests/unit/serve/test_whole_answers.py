"""Models whose steps cannot be shared are read in groups: texts are the evaluation's, confidences the model's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.serve.adapters.sources import fetched, with_base
from components.serve.config import ServeConfig
from components.serve.engines import lane
from components.serve.offline.local_reader import LocalReader
from components.shared.models.base_models import base_model_location
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.transcriber import Transcriber
from tests.fixtures.drawn_pages import drawn_page

TOKENS = 40
TEXTS = ("page one", "a longer line of text", "third", "and two lines\nof text", "the fifth page")


@pytest.fixture(scope="module")
def windowed_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny base with a window that is longer than its pages: it reads as before, and shares no steps."""
    folder = tmp_path_factory.mktemp("models") / "windowed-base"
    shutil.copytree(base_model_location("tiny-base"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["sliding_window"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("rule", [None, NoRepeatNgrams(2, 12)])
def test_groups_read_what_the_evaluation_reads(
    windowed_base: Path, rule: NoRepeatNgrams | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = list[lane.WholeAnswers]()
    made = lane._groups_of
    monkeypatch.setattr(lane, "_groups_of", lambda *given: groups.append(made(*given)) or groups[-1])
    source = fetched(str(windowed_base), tmp_path)
    settings = {"no_repeat_ngram_size": rule.size, "no_repeat_ngram_window": rule.window} if rule else {}
    config = ServeConfig(model=str(windowed_base), max_new_tokens=TOKENS, max_batch_size=3, **settings)
    pages = [drawn_page(text) for text in TEXTS]
    with LocalReader(source, with_base(config, source)) as reader:
        readings = list(reader.read(pages))
    assert groups, "the pages were read in groups"

    model: Any = load_model("tiny-base", dtype=torch.float32, device=torch.device("cpu")).eval()
    processor, family = load_processor("tiny-base"), family_of(model.config.model_type)
    transcriber = Transcriber(model, processor, family, TOKENS, no_repeat=rule)
    for reading, page in zip(readings, pages, strict=True):
        steps = transcriber.read_step_by_step(_Page(page)) if rule is None else None
        assert reading.text == transcriber.read([_Page(page)])[0].text
        assert all(line.min_logprob >= reading.min_logprob for line in reading.lines)
        if steps is not None:
            assert reading.tokens == len(steps.tokens)
            assert reading.mean_logprob == pytest.approx(_mean_logprob(model, transcriber, page), abs=1e-3)
    if rule is not None:
        plain = Transcriber(model, processor, family, TOKENS).read([_Page(page) for page in pages])
        assert [one.text for one in plain] != [one.text for one in readings], "the rule changes something"


class _Page:
    """A page as a transcriber takes it."""

    instruction = None

    def __init__(self, image: Any) -> None:
        self.image = image


@torch.inference_mode()
def _mean_logprob(model: Any, transcriber: Transcriber, page: Any) -> float:
    """Return the mean log-probability of the answer's tokens, from one forward pass over prompt and answer."""
    inputs = transcriber.prepare([_Page(page)]).inputs
    tokens = torch.tensor([transcriber.read_step_by_step(_Page(page)).tokens])
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=tokens.shape[1],
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logprobs = torch.stack(output.logits, dim=1).float().log_softmax(-1)
    return float(logprobs.gather(2, tokens[..., None]).mean())
