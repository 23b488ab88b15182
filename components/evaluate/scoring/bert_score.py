"""BERTScore with an encoder from a local folder: the similarity of two texts by their tokens' vectors."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from components.shared.errors import UserError
from components.shared.models.model_loading import default_device

_LONGEST_WINDOW = 512  # tokens; the length that BERT and RoBERTa were trained with
_WINDOWS_AT_ONCE = 16
_PAGES_AT_ONCE = 64  # vectors of 64 pages of 700 tokens with 768 numbers each take 275 MB


class BertScorer:
    """An encoder, and the layer whose hidden states represent the tokens.

    Args:
        folder: a model and a fast tokenizer as transformers saves them.
        layer: 0 for the embeddings; None for the last one.

    Raises:
        UserError: no such folder, no encoder in it, or no such layer.
    """

    def __init__(self, folder: Path, layer: int | None = None) -> None:
        self._tokenizer, self._model = _loaded(folder)
        layers = self._model.config.num_hidden_layers
        if layer is not None and layer > layers:
            raise UserError(f"the model has {layers} layers", where="bertscore_layer", mend=f"give 0 to {layers}")
        self.layer = layers if layer is None else layer
        positions = getattr(self._model.config, "max_position_embeddings", _LONGEST_WINDOW)
        self._window = min(self._tokenizer.model_max_length, positions, _LONGEST_WINDOW)

    def f_measures(self, labels: Sequence[str], predictions: Sequence[str]) -> list[float]:
        """Return F = 2PR / (P + R) of each page.

        P is the mean, over the prediction's tokens, of the highest cosine to a token of the label; R is the same with
        the roles exchanged (Zhang et al., 2020, https://arxiv.org/abs/1904.09675), without idf weights and rescaling.
        Special tokens such as [CLS] can be the most similar token but do not count in the means, as in the package
        bert-score; for texts of one window the figures are equal to that package's. Longer texts are encoded window
        by window, never truncated. A text without tokens scores 0, two such texts score 1.
        """
        self._model.to(default_device())  # only now: the models that read had the device to themselves
        pairs = list(zip(labels, predictions, strict=True))
        return [
            figure
            for start in range(0, len(pairs), _PAGES_AT_ONCE)
            for figure in self._of_pairs(pairs[start : start + _PAGES_AT_ONCE])
        ]

    def _of_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vectors = dict(zip(texts, self._encoded(texts), strict=True))
        return [_nearness(vectors[label], vectors[prediction]) for label, prediction in pairs]

    def _encoded(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each text's unit vectors, shape (tokens, dimensions), and which of them are not special tokens."""
        windows = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._window,
            return_overflowing_tokens=True,
            return_special_tokens_mask=True,
        )
        found: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in texts]
        for number, vectors, words in self._hidden_states(windows):
            found[windows["overflow_to_sample_mapping"][number]].append((vectors, words))
        return [(torch.cat([v for v, _ in parts]), torch.cat([w for _, w in parts])) for parts in found]

    @torch.inference_mode()
    def _hidden_states(self, windows: Any) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        order = sorted(range(len(windows["input_ids"])), key=lambda number: len(windows["input_ids"][number]))
        for start in range(0, len(order), _WINDOWS_AT_ONCE):
            members = order[start : start + _WINDOWS_AT_ONCE]
            rows = [{name: windows[name][i] for name in ("input_ids", "attention_mask")} for i in members]
            batch = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
            states = self._model(**batch, output_hidden_states=True).hidden_states[self.layer]
            units = torch.nn.functional.normalize(states.float(), dim=-1).cpu()
            for row, number in zip(units, members, strict=True):
                marks = torch.tensor(windows["special_tokens_mask"][number], dtype=torch.bool)
                yield number, row[: len(marks)], ~marks


def _nearness(label: tuple[torch.Tensor, torch.Tensor], prediction: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Return the F-measure of two texts, each as its tokens' unit vectors and which of them are not special tokens.

    >>> label = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([True, True])
    >>> prediction = torch.tensor([[1.0, 0.0]]), torch.tensor([True])
    >>> round(_nearness(label, prediction), 4)  # P = 1, R = (1 + 0) / 2
    0.6667
    """
    (expected, expected_words), (found, found_words) = label, prediction
    if not expected_words.any() or not found_words.any():
        return float(expected_words.any() == found_words.any())
    cosines = found @ expected.T
    precision = cosines.amax(dim=1)[found_words].mean()
    recall = cosines.amax(dim=0)[expected_words].mean()
    return float(2 * precision * recall / (precision + recall))


def _loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    where = f"bertscore_model {str(folder)!r}"
    mend = "give a folder that holds an encoder and its fast tokenizer, as save_pretrained writes them"
    if not folder.is_dir():
        raise UserError("no such folder", where=where, mend=mend)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot be loaded ({first_line})", where=where, mend=mend) from error
    # A decoder works too; multimodal and encoder-decoder models do not have a single stack of layers.
    if not tokenizer.is_fast or model.config.is_encoder_decoder or not hasattr(model.config, "num_hidden_layers"):
        raise UserError(
            f"a {model.config.model_type} is not a text encoder with a fast tokenizer", where=where, mend=mend
        )
    tokenizer.padding_side = "right"
    return tokenizer, model.eval()
