"""What is stored of a page: these fields and no others."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal, Self

from components.shared.artifacts.step_file import StepFile

Role = Literal["answer", "champion", "challenger"]
"""``answer``: read by one version; the others: read by both versions of the canary."""
_STAMP = "%Y%m%dT%H%M%S%fZ"
_NAME = re.compile(
    r"(?P<request_id>[\w.-]{1,64})~(?P<stamp>\d{8}T\d{12}Z)~(?P<page>\d{1,6})"
    r"~(?P<role>answer|champion|challenger)~(?P<picture>[0-9a-f]{64})\.json",
    re.ASCII,
)


@dataclass(frozen=True)
class SampleKey:
    """A stored reading's name: everything that deleting, expiring and pairing need, so that they open no file.

    Attributes:
        request_id: the request's id, ``X-Request-ID``.
        stored_at: UTC; readings of one request have the same.
        page: in the request, from 1.
        picture: SHA-256 of the page's PNG file, which has this name.
    """

    request_id: str
    stored_at: datetime
    page: int
    role: Role
    picture: str

    @property
    def name(self) -> str:
        """The file's name."""
        stamp = self.stored_at.astimezone(UTC).strftime(_STAMP)
        return f"{self.request_id}~{stamp}~{self.page}~{self.role}~{self.picture}.json"

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Return the key in a file's name; None if it is another file."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        stored_at = datetime.strptime(match["stamp"], _STAMP).replace(tzinfo=UTC)
        role: Role = match["role"]  # type: ignore[assignment]  # the pattern allows no other
        return cls(match["request_id"], stored_at, int(match["page"]), role, match["picture"])


class StoredReading(StepFile):
    """A page's reading in the sample store. No name, address, token, file name or instruction is in it."""

    FILE: ClassVar[str] = "sample.json"
    MADE_BY: ClassVar[str] = "serve"

    schema_version: Literal[1] = 1
    request_id: str
    """the request's id, as in the answer and the log"""
    page: int
    """in the request, from 1"""
    role: Role
    """``answer``: read by one version; ``champion`` and ``challenger``: both read the page, for comparison"""
    stored_at: datetime
    """when the reading was handed to the store, UTC"""
    picture_sha256: str
    """of the page's PNG file in the folder ``pages``, which is named so"""
    model: str
    """the version that read the page"""
    own_instruction: bool
    """the client sent an instruction of its own, so the text may be no plain transcription; it is not stored"""
    text: str
    """what the version wrote"""
    mean_logprob: float
    """mean log-probability of the tokens, natural logarithm"""
    min_logprob: float
    """lowest log-probability of a token"""
    tokens: int
    """of the answer, its end included"""
    truncated: bool
    """the answer reached its longest length"""
    loop: bool
    """the text ends in a repetition"""

    @property
    def key(self) -> SampleKey:
        """The reading's name in the store."""
        return SampleKey(self.request_id, self.stored_at, self.page, self.role, self.picture_sha256)
