"""What a check found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "fault", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One line of ``deepsynth doctor``; unknown means that this machine cannot check it."""

    state: State
    subject: str
    detail: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.state:<8}{self.subject}: {self.detail}{f'; {self.mend}' if self.mend else ''}"
