"""How a version's confidence was calibrated: what its package says of pages and of lines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.shared.artifacts.confidence_calibration import ConfidenceCalibration
from components.shared.artifacts.package_files import PACKAGE_SETTINGS, json_mapping
from components.shared.errors import UserError


@dataclass(frozen=True)
class Calibrations:
    """Of pages and of lines; each is None where it could not be measured."""

    page: ConfidenceCalibration | None = None
    line: ConfidenceCalibration | None = None


NONE = Calibrations()


def calibrations_of(folder: Path) -> Calibrations:
    """Return a package's calibrations; a folder that is no package has none.

    Raises:
        UserError: one of them is not valid, or the package's settings cannot be read.
    """
    settings = folder / PACKAGE_SETTINGS
    content = json_mapping(settings, "export again") if settings.is_file() else {}
    return Calibrations(_valid(settings, content, "calibration"), _valid(settings, content, "line_calibration"))


def _valid(settings: Path, content: dict[str, Any], name: str) -> ConfidenceCalibration | None:
    if content.get(name) is None:
        return None
    try:
        return ConfidenceCalibration.model_validate(content[name])
    except ValidationError as error:
        where = f"{settings}, {name}"
        raise UserError("not a calibration of this version of deepsynth", where=where, mend="export again") from error
