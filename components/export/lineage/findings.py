"""What ``deepsynth verify`` found, one digest after the other."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.shared.digests import sha256_file

State = Literal["matches", "differs", "not reached"]


@dataclass(frozen=True)
class Finding:
    """One digest that was, or could not be, computed again.

    Attributes:
        link: the part of the lineage: ``package``, ``shards``, ``manifest``, ``training``, ``adapter``, ``base``,
            ``evaluation``, ``merged`` or ``archive``.
        subject: the file or figure.
        detail: how it differs, or what would bring it within reach.
    """

    link: str
    subject: str
    state: State
    detail: str = ""


@dataclass(frozen=True)
class Reach:
    """Folders beside the package whose bytes can be compared too; each may be None.

    Attributes:
        dataset_dir: made by prepare.
        adapter_dir: made by train.
        evaluation_dir: made by evaluate.
        base_model: the base's folder.
        archive_sha256: what the zip's digest has to be, from a place that whoever changed the package cannot change.
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
        """Note whether a file outside of the package has the digest ``expected``."""
        try:
            self.compare(link, str(path), sha256_file(path), expected)
        except FileNotFoundError:
            self.differs(link, str(path), "missing")
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            self.not_reached(link, str(path), f"cannot be read ({error})")

    def compare(self, link: str, subject: str, actual: Any, expected: Any, detail: str = "") -> None:
        """Note whether two values are equal; ``detail`` replaces showing values that are long."""
        if actual == expected:
            self.found.append(Finding(link, subject, "matches"))
        else:
            self.differs(link, subject, detail or f"{_shown(actual)}, the lineage says {_shown(expected)}")

    def differs(self, link: str, subject: str, detail: str) -> None:
        """Note a fault."""
        self.found.append(Finding(link, subject, "differs", detail))

    def not_reached(self, link: str, subject: str, detail: str) -> None:
        """Note what could not be compared."""
        self.found.append(Finding(link, subject, "not reached", detail))


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 12 else text
