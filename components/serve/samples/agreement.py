"""How far the canary's two readings of the same pages agree, with the evaluation's own error rate and intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.serve.samples.store import SampleStore
from components.serve.samples.stored_reading import SampleKey, StoredReading
from components.shared.scoring.edit_counts import EditCounts, character_edits, error_rate
from components.shared.scoring.paired_comparison import Interval
from components.shared.scoring.statistics import DocumentBootstrap
from components.shared.scoring.text_normalization import Profile, normalizer

NORMALIZATION: Profile = "nfkc-ws-v1"
_RESAMPLES, _SEED = 1000, 0


@dataclass(frozen=True)
class Agreement:
    """Two versions on the pages that both have read.

    Attributes:
        pages, requests: that have both readings; intervals draw requests, whose pages are alike.
        equal_pages: whose texts are equal after normalisation.
        cer: edits between the readings over the characters of the champion's; how far they differ, not which is
            right; None where the champion read no text.
        mean_logprob_difference: the challenger's mean log-probability minus the champion's, mean over the pages;
            positive means that the challenger is more certain.
        truncated, loops: pages of (champion, challenger).
    """

    champion: str
    challenger: str
    pages: int
    requests: int
    equal_pages: int
    cer: float | None
    cer_interval: Interval | None
    mean_logprob_difference: float
    mean_logprob_difference_interval: Interval | None
    truncated: tuple[int, int]
    loops: tuple[int, int]


Pair = tuple[StoredReading, StoredReading]
"""champion, challenger"""


def pairs_in(store: SampleStore, who: str) -> tuple[list[Pair], int]:
    """Return the pages with both readings, and how many have only the challenger's.

    Raises:
        UserError: a stored file is not a reading.
        OSError: the store or the audit file fails.
    """
    by_page: dict[tuple[object, ...], dict[str, SampleKey]] = {}
    for key in store.listed(who):
        if key.role != "answer":
            by_page.setdefault((key.request_id, key.stored_at, key.page, key.picture), {})[key.role] = key
    pairs, single = [], 0
    for found in by_page.values():
        readings = [store.reading(found[role], who) for role in ("champion", "challenger") if role in found]
        if len(readings) == 2 and readings[0] and readings[1]:
            pairs.append((readings[0], readings[1]))
        else:
            single += 1
    return pairs, single


def agreements(pairs: Iterable[Pair]) -> list[Agreement]:
    """Return one agreement for each two versions that read pages together, in the order of their first page."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for champion, challenger in pairs:
        groups.setdefault((champion.model, challenger.model), []).append((champion, challenger))
    return [_agreement(champion, challenger, group) for (champion, challenger), group in groups.items()]


def _agreement(champion: str, challenger: str, pairs: Sequence[Pair]) -> Agreement:
    normalise = normalizer(NORMALIZATION)
    counts = [character_edits(normalise(first.text), normalise(second.text)) for first, second in pairs]
    requests = [first.request_id for first, _ in pairs]
    bootstrap = DocumentBootstrap(requests, _RESAMPLES, _SEED)
    cer, cer_interval = _cer(counts, bootstrap)
    differences = [second.mean_logprob - first.mean_logprob for first, second in pairs]
    return Agreement(
        champion=champion,
        challenger=challenger,
        pages=len(pairs),
        requests=len(set(requests)),
        equal_pages=sum(count.edits == 0 for count in counts),
        cer=cer,
        cer_interval=cer_interval,
        mean_logprob_difference=sum(differences) / len(differences),
        mean_logprob_difference_interval=bootstrap.interval(differences, [1.0] * len(differences)),
        truncated=_both(pairs, "truncated"),
        loops=_both(pairs, "loop"),
    )


def _cer(counts: Sequence[EditCounts], bootstrap: DocumentBootstrap) -> tuple[float | None, Interval | None]:
    lengths = [float(count.reference_length) for count in counts]
    if not sum(lengths):
        return None, None
    return error_rate(counts), bootstrap.interval([float(count.edits) for count in counts], lengths)


def _both(pairs: Sequence[Pair], flag: str) -> tuple[int, int]:
    return sum(getattr(first, flag) for first, _ in pairs), sum(getattr(second, flag) for _, second in pairs)
