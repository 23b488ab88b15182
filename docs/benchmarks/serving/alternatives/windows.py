"""What LitServe's and Ray Serve's batches call: the bundled base reads a list of pages to the end of the longest.

``generate`` is transformers' own loop; ``rows`` are the steps of this project's engine, in which a page that has ended
costs nothing any more, but no other page enters. Both are measured, because the second is faster.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from components.serve.engines.running_rows import RunningRows
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.reading.transcriber import Transcriber

LONGEST = 512  # tokens


@dataclass(frozen=True)
class _Page:
    image: Image.Image
    instruction: None = None


class Rows:
    """Pages in the engine's steps; ``step`` writes one token for each and returns those that have ended."""

    def __init__(self, most_rows: int) -> None:
        model: Any = load_model("tiny-base", dtype=torch.float32, device=torch.device("cpu")).eval()
        family = family_of(model.config.model_type)
        self.transcriber = Transcriber(model, load_processor("tiny-base"), family, LONGEST)
        self._rows = RunningRows(model, most_rows, steps_at_once=1, fixed_width=False)
        self.names: list[Any] = []
        self._tokens: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.names)

    def enter(self, names: Sequence[Any], files: Sequence[bytes]) -> None:
        """Prefill pages; ``names`` are those that ``step`` returns them by."""
        firsts = self._rows.enter(self.transcriber.prepare(pages_of(files)).inputs, LONGEST)
        self.names += names
        self._tokens += [[token] for token, _ in firsts]

    def step(self) -> list[tuple[Any, str]]:
        """Return names and texts of the pages that have ended, after a token for each that had not."""
        ended = self._leave()
        if self.names:
            for tokens, new in zip(self._tokens, self._rows.step(), strict=True):
                tokens += [token for token, _ in new]
        return ended

    def _leave(self) -> list[tuple[Any, str]]:
        ended = []
        for row in reversed(range(len(self.names))):
            tokens = self._tokens[row]
            ends = tokens[-1] in self.transcriber.end_tokens
            if ends or len(tokens) >= LONGEST:
                ended.append((self.names[row], self.transcriber.text_of(tokens[:-1] if ends else tokens)))
                self._rows.leave(row)
                last = (self.names.pop(), self._tokens.pop())
                if row < len(self.names):
                    self.names[row], self._tokens[row] = last
        return ended


class WindowReader:
    """Reads a batch to the end of its longest page.

    Args:
        decoding: ``generate`` or ``rows``.
        most_rows: pages of a batch at most.
    """

    def __init__(self, decoding: str, most_rows: int) -> None:
        self._rows, self._decoding = Rows(most_rows), decoding

    def read(self, files: Sequence[bytes]) -> list[str]:
        """Return the pages' texts."""
        if self._decoding == "generate":
            return [found.text for found in self._rows.transcriber.read(pages_of(files))]
        self._rows.enter(range(len(files)), files)
        texts = [""] * len(files)
        while len(self._rows):
            for number, text in self._rows.step():
                texts[number] = text
        return texts


def pages_of(files: Sequence[bytes]) -> list[_Page]:
    """Return PNG files as pages."""
    return [_Page(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
