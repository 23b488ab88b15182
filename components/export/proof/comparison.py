"""Whether vLLM reads a page as transformers with PEFT does, and whether the adapter is what answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.export.package.merge_ties import noise_of, ties_of
from components.shared.reading.transcriber import StepByStep


@dataclass(frozen=True)
class ServedReading:
    """A page's readings: ours and vLLM's with the adapter, ours and vLLM's of the base.

    ``base`` and ``vllm_base`` are None where there is no base to compare with: a whole model, or merged weights.
    """

    page: str
    ours: StepByStep
    vllm: StepByStep
    base: StepByStep | None = None
    vllm_base: StepByStep | None = None


@dataclass(frozen=True)
class ServedVerdict:
    """What a proof found.

    Attributes:
        has_base: whether a base was read beside the adapter.
        equal: pages that both read alike, letter by letter.
        ties: pages that part at a token that rounding decided.
        differing: the other pages.
        telling: pages that the base reads otherwise than vLLM with the adapter; for a whole model, all pages.
        noise: the largest change of the difference between our two best scores for a token, where both readings agree.
        other_tiles: of the pages that vLLM cuts into other tiles than this package's settings do, what each cuts.
    """

    equal: list[str]
    ties: list[str]
    differing: list[str]
    telling: list[str]
    noise: float
    has_base: bool = True
    other_tiles: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """Return ``differs``, ``not shown`` (nothing shows that the adapter answers), or ``proven``."""
        if self.differing:
            return "differs"
        return "proven" if self.telling else "not shown"

    def __str__(self) -> str:
        read = len(self.equal) + len(self.ties) + len(self.differing)
        parts = [f"{len(self.equal)} of {read} pages read alike, letter by letter"]
        if self.ties:
            parts.append(f"{len(self.ties)} part where rounding decided ({', '.join(self.ties)})")
        if self.differing:
            parts.append(f"{len(self.differing)} DIFFER ({', '.join(self.differing)})")
        if self.has_base:
            parts.append(f"the base reads {len(self.telling)} of them otherwise")
        if self.other_tiles:
            parts.append(f"vLLM cuts other tiles ({', '.join(self.other_tiles)}): evaluate with vLLM's max_crops")
        if self.state == "not shown":
            parts.append("nothing shows that the adapter answers: give a page that base and adapter read differently")
        return f"{self.state}: {'; '.join(parts)}; scores move by at most {self.noise:.2g}"


def verdict_of_readings(readings: Sequence[ServedReading], other_tiles: Sequence[str] = ()) -> ServedVerdict:
    """Return the verdict on pages that were read on both sides; ``other_tiles`` as in the verdict."""
    keys = [reading.page for reading in readings]
    ours, theirs = [one.ours for one in readings], [one.vllm for one in readings]
    # vLLM leaves out a letter whose bytes are not complete, for which transformers writes a replacement.
    equal = [one.page for one in readings if one.ours.text == one.vllm.text or one.ours.tokens == one.vllm.tokens]
    bases = [one.base for one in readings if one.base is not None]
    ties = ties_of(keys, ours, theirs, bases or None) if len(equal) < len(readings) else {}
    parted = [key for key in keys if key not in equal]
    return ServedVerdict(
        equal=equal,
        ties=[key for key in parted if key in ties],
        differing=[key for key in parted if key not in ties],
        telling=[one.page for one in readings if one.vllm_base is None or one.vllm_base.tokens != one.vllm.tokens],
        noise=noise_of(ours, theirs),
        has_base=any(one.vllm_base is not None for one in readings),
        other_tiles=tuple(other_tiles),
    )
