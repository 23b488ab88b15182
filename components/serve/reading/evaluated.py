"""How a package's model was evaluated, from its ``inference_config.json``; imports no model library."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.shared.artifacts.package_files import PACKAGE_SETTINGS, json_mapping
from components.shared.errors import UserError


class EvaluatedRule(BaseModel):
    """What an answer could not repeat: see ``NoRepeatNgrams``."""

    size: int = Field(ge=2)
    window: int | None = None
    allowed: tuple[int, ...] = ()


class EvaluatedReading(BaseModel):
    """The settings of the evaluation, as far as they change what is read.

    Attributes:
        prompt: the whole prompt, with the picture's token.
        instruction: the prompt's text alone; None: the family's own. Older packages do not say it.
        image_options: what the processor's image part was called with.
        image_backend: what scaled the pictures, ``torchvision`` or ``pil``; None: older packages do not say it.
        max_new_tokens: the longest answer.
        no_repeat_ngrams: None for greedy search alone.
    """

    model_config = ConfigDict(frozen=True)

    prompt: str
    instruction: str | None = None
    image_options: dict[str, Any] = Field(default_factory=dict)
    image_backend: str | None = None
    max_new_tokens: int = Field(ge=1)
    no_repeat_ngrams: EvaluatedRule | None = None

    @property
    def says_instruction(self) -> bool:
        """Whether ``instruction`` is the package's word."""
        return "instruction" in self.model_fields_set


def evaluated_reading(folder: Path | None) -> EvaluatedReading | None:
    """Return how the package in a folder was evaluated; None if it is no package, as the adapter's folder of a run.

    Raises:
        UserError: its settings cannot be read, or are not those of a package.
    """
    path = folder / PACKAGE_SETTINGS if folder else None
    if path is None or not path.is_file():
        return None
    try:
        return EvaluatedReading.model_validate(json_mapping(path, "export again"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"does not say how it was evaluated ({said})", where=str(path), mend="export again") from error
