"""A JSON file that one step leaves and another reads: a pydantic model with a schema version."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.errors import UserError

_MOST_FAULTS = 3


class OtherSchemaVersionError(UserError):
    """A file that another version of the product wrote."""


class FileContent(BaseModel):
    """Part of a step's file: unknown fields are errors, values cannot change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",
        protected_namespaces=(),
    )


class StepFile(FileContent):
    """A whole file. A subclass gives ``FILE``, ``MADE_BY`` and a field ``schema_version: Literal[N] = N``."""

    FILE: ClassVar[str]
    """the file's name in the step's output folder"""
    MADE_BY: ClassVar[str]
    """the step that writes it"""

    @classmethod
    def version(cls) -> int:
        """Return the schema version that this version of the product writes and reads."""
        return int(cls.model_fields["schema_version"].default)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file in a step's output folder.

        Raises:
            UserError: there is no such file, it is not such a file, or it has another schema version.
        """
        path = Path(folder) / cls.FILE
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(f"cannot be read ({reason})", where=str(path), mend=cls._mend()) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Self:
        """Read the file's text; ``where`` names the file in errors.

        Raises:
            UserError: it is not such a file; its subclass ``OtherSchemaVersionError`` where the version is another.
        """
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"cannot be read as JSON ({error})", where=where, mend=cls._mend()) from error
        return cls.of(content, where)

    @classmethod
    def of(cls, content: Any, where: str) -> Self:
        """Check the file's parsed content; see ``parse``."""
        found = content.get("schema_version") if isinstance(content, dict) else None
        if found != cls.version():
            said = "no schema version" if found is None else f"the schema version {found}"
            raise OtherSchemaVersionError(
                f"{cls.FILE} has {said}, this version of deepsynth reads {cls.version()}",
                where=where,
                mend=f"run {cls._maker()} again, or use the version of deepsynth that made it",
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            reason = f"not a {cls.FILE} of {cls._maker()} ({_faults(error)})"
            raise UserError(reason, where=where, mend=cls._mend()) from error

    def write(self, folder: Path) -> Path:
        """Write the file into ``folder`` and return its path."""
        path = Path(folder) / self.FILE
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def _mend(cls) -> str:
        return f"name a folder that {cls._maker()} made"

    @classmethod
    def _maker(cls) -> str:
        return f"the {cls.MADE_BY} step"


def _faults(error: ValidationError) -> str:
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)]
    more = f"; {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
    return "; ".join(faults[:_MOST_FAULTS]) + more
