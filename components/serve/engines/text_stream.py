"""The text of an answer while its tokens come, decoded over its last tokens alone.

A token's text depends on those before it (a space, the bytes of a character), so a few settled tokens are decoded with
the new ones, and what they add is the new text: ``prefix_offset`` and ``read_offset`` of Text Generation Inference and
vLLM (``detokenize_incrementally``).
"""

from collections.abc import Callable, Sequence
from itertools import takewhile

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what tokenizers write for the first bytes of a character


class TextChangedError(Exception):
    """Text that was sent would have to change: the tokenizer writes the tokens before otherwise than it did."""


class TextStream:
    """The pieces of one answer's text; only one thread may use it.

    Args:
        decode: returns the text of tokens.
        held_back: how many of the text's last characters the tokenizer may rewrite when more tokens come.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], held_back: int) -> None:
        self._decode, self._held_back = decode, held_back
        self._tokens: list[int] = []
        self._prefix = self._read = 0  # the tokens from the one to the other have their text in what is known
        self._sent: list[str] = []
        self._held = ""

    def add(self, tokens: Sequence[int]) -> str:
        """Return the text that can be sent after more tokens.

        Raises:
            TextChangedError: see there.
        """
        self._tokens += tokens
        known = self._decode(self._tokens[self._prefix : self._read])
        text = self._decode(self._tokens[self._prefix :])
        if text == known or text.endswith(_INCOMPLETE):
            return ""
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(known, text, strict=False)))
        changed = len(known) - kept
        if changed > len(self._held):
            raise TextChangedError
        self._held = self._held[: len(self._held) - changed] + text[kept:]
        # What a tokenizer rewrites also depends on how far back it did: then all tokens are decoded.
        self._prefix = 0 if self._held_back else self._read
        self._read = len(self._tokens)
        until = max(0, len(self._held) - self._held_back)
        piece, self._held = self._held[:until], self._held[until:]
        self._sent.append(piece)
        return piece

    def end(self, text: str) -> str:
        """Return what of the whole ``text`` has not been sent.

        Raises:
            TextChangedError: the text that was sent is not its beginning.
        """
        sent = "".join(self._sent)
        if not text.startswith(sent):
            raise TextChangedError
        return text[len(sent) :]
