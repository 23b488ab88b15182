"""What ``deepsynth verify`` found, digest by digest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from components.shared.digests import sha256_file

State = Literal["matches", "differs", "not reached"]


@dataclass(frozen=True)
class Finding:
    """One digest that was recomputed, or could not be.

    Attributes:
        link: the part of the lineage: ``package``, ``shards``, ``manifest``, ``training``, ``adapter``, ``base``,
            ``evaluation``, ``merged`` or ``archive``.
        subject: the file or figure.
        detail: how it differs, or which option makes it available.
    """

    link: str
    subject: str
    state: State
    detail: str = ""


@dataclass(frozen=True)
class Reach:
    """Folders outside the package whose bytes can also be compared; each may be None.

    Attributes:
        dataset_dir: made by prepare.
        adapter_dir: made by train.
        evaluation_dir: made by evaluate.
        base_model: the base's folder.
        archive_sha256: the digest that the zip must have, from a source that nobody who can change the package can
            change.
    """

    dataset_dir: Path | None = None
    adapter_dir: Path | None = None
    evaluation_dir: Path | None = None
    base_model: Path | None = None
    archive_sha256: str | None = None


@dataclass
class Findings:
    """The findings so far."""

    found: list[Finding] = field(default_factory=list)

    def compare_file(self, link: str, path: Path, expected: str) -> None:
        """Record whether a file outside the package has the digest ``expected``."""
        try:
            self.compare(link, str(path), sha256_file(path), expected)
        except FileNotFoundError:
            self.differs(link, str(path), "missing")
        except (OSError, ValueError) as error:  # ValueError: not a valid file name
            self.not_reached(link, str(path), f"cannot be read ({error})")

    def compare(self, link: str, subject: str, actual: Any, expected: Any, detail: str = "") -> None:
        """Record whether two values are equal; ``detail`` is shown instead of the values."""
        if actual == expected:
            self.found.append(Finding(link, subject, "matches"))
        else:
            self.differs(link, subject, detail or f"{_shown(actual)}, the lineage says {_shown(expected)}")

    def differs(self, link: str, subject: str, detail: str) -> None:
        """Record a difference."""
        self.found.append(Finding(link, subject, "differs", detail))

    def not_reached(self, link: str, subject: str, detail: str) -> None:
        """Record what could not be compared."""
        self.found.append(Finding(link, subject, "not reached", detail))


def verdict_of(findings: Sequence[Finding]) -> str:
    """Return one line: whether anything differs, and how much could be compared.

    >>> verdict_of([Finding("adapter", "a", "matches"), Finding("shards", "s", "not reached", "give --dataset-dir")])
    'intact: the 1 digest that could be compared matches; 1 was not reached (shards)'
    """
    by_state = {state: [one for one in findings if one.state == state] for state in get_args(State)}
    compared = len(findings) - len(by_state["not reached"])
    missing = by_state["not reached"]
    links = ", ".join(dict.fromkeys(one.link for one in missing))
    rest = f"; {len(missing)} {'was' if len(missing) == 1 else 'were'} not reached ({links})" if missing else ""
    if changed := by_state["differs"]:
        links = ", ".join(dict.fromkeys(one.link for one in changed))
        return f"CHANGED: {len(changed)} of {compared} compared {_digests(compared)} differ ({links}){rest}"
    if not compared:
        return f"not known: nothing could be compared{rest}"
    match = "matches" if compared == 1 else "match"
    return f"intact: the {compared} {_digests(compared)} that could be compared {match}{rest}"


def _digests(count: int) -> str:
    return "digest" if count == 1 else "digests"


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 12 else text
