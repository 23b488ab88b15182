"""BERTScore with a tiny BERT from a local folder, against the formula written out token by token."""

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from components.evaluate.scoring.bert_score import BertScorer
from components.evaluate.scoring.metric_module import load_metric
from components.shared.errors import UserError
from components.shared.models.base_models import TINY_BASE_FOLDER

WORDS = ["the", "cat", "sat", "lay", "on", "a", "mat", "dog", "été", "漢"]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WINDOW = 12  # tokens, two of them special tokens


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights and one token per word; windows of 12 tokens."""
    folder = tmp_path_factory.mktemp("bert") / "tiny"
    vocabulary = {token: number for number, token in enumerate([*MARKS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=WINDOW,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder


def expected(folder: Path, label: str, prediction: str, layer: int) -> float:
    """The formula for texts of one window: greedy matching; special tokens can be matched but are not in the means."""
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    vectors = []
    for text in (label, prediction):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states[layer][0].tolist()
        vectors.append([[value / math.hypot(*state) for value in state] for state in states])

    def mean_of_nearest(these: list[list[float]], others: list[list[float]]) -> float:
        nearest = [max(sum(a * b for a, b in zip(one, other, strict=True)) for other in others) for one in these[1:-1]]
        return sum(nearest) / len(nearest)

    recall, precision = mean_of_nearest(*vectors), mean_of_nearest(*reversed(vectors))
    return 2 * precision * recall / (precision + recall)


PAIRS = [("the cat sat", "the cat lay"), ("the cat sat on a mat", "dog"), ("été 漢", "ÉTÉ the 漢"), ("a", "a")]


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_the_figures_are_the_formulas_and_do_not_depend_on_what_is_beside(bert: Path, layer: int | None) -> None:
    found = BertScorer(bert, layer).f_measures(*zip(*PAIRS, strict=True))
    assert found == pytest.approx([expected(bert, *pair, 2 if layer is None else layer) for pair in PAIRS], abs=1e-6)
    assert found[-1] == pytest.approx(1) and max(found[:2]) < 1


def test_empty_texts_and_texts_longer_than_a_window(bert: Path) -> None:
    scorer = BertScorer(bert)
    assert scorer.f_measures(["", "cat", ""], ["", "", "cat"]) == [1, 0, 0]
    long = "the cat sat on a mat " * 5  # 30 tokens
    cut = " ".join(long.split()[: WINDOW - 2])
    assert scorer.f_measures([long], [long]) == pytest.approx([1])
    assert scorer.f_measures([long], [cut])[0] < 1, "what comes after the first window counts"


def test_it_stands_behind_evaluates_interface(bert: Path) -> None:
    labels, predictions = (list(column) for column in zip(*PAIRS, strict=True))
    found = load_metric("bertscore").compute(predictions=predictions, references=labels, model=str(bert), layer=1)
    assert found["bertscore"] == pytest.approx(sum(BertScorer(bert, 1).f_measures(labels, predictions)) / len(PAIRS))


def test_what_is_no_encoder_is_named(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bertscore_model '.*nowhere': no such folder"):
        BertScorer(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        BertScorer(tmp_path)
    with pytest.raises(UserError, match="a paddleocr_vl is not a text encoder"):
        BertScorer(TINY_BASE_FOLDER)
    with pytest.raises(UserError, match="bertscore_layer: the model has 2 layers; give 0 to 2"):
        BertScorer(bert, 3)
