"""The settings ``no_repeat_ngram_size`` and ``no_repeat_ngram_window``: the rule that they mean for a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transformers import ProcessorMixin

from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams

OfTheFamily = Literal["family", "family-pdf"]
"""The authors' own numbers: for single pictures, or for the pages of a PDF."""


@dataclass(frozen=True)
class NoRepeatSettings:
    """Tokens of a sequence and of the window in which it may not occur twice; ``size`` None: greedy search alone."""

    size: int | None = None
    window: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], family: ModelFamily) -> "NoRepeatSettings":
        """Return the settings of a config, with the family's published numbers for ``family`` and ``family-pdf``.

        Raises:
            UserError: the family's authors publish none.
        """
        size, window = config.get("no_repeat_ngram_size"), config.get("no_repeat_ngram_window")
        if size not in get_args(OfTheFamily):
            return cls(size, window)
        published = family.no_repeat_ngram if size == "family" else family.no_repeat_ngram_pdf
        if published is None:
            raise UserError(
                f"the authors of the family {family.name!r} publish no such rule",
                where=f"no_repeat_ngram_size {size!r}",
                mend="leave it out, or give numbers: no_repeat_ngram_size 20, no_repeat_ngram_window 90",
            )
        return cls(*published)

    def rule(self, processor: ProcessorMixin, family: ModelFamily) -> NoRepeatNgrams | None:
        """Return the rule for a model's tokens; None where it is off."""
        if self.size is None:
            return None
        vocabulary = processor.tokenizer.get_vocab()
        allowed = tuple(vocabulary[token] for token in family.no_repeat_allowed if token in vocabulary)
        return NoRepeatNgrams(self.size, self.window, allowed)
