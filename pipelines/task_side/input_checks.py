"""What settings name and what must be there: fonts, Pango, folders, a registry; checked before anything runs."""

import json
import os
from pathlib import Path
from typing import Any

from components.prepare.config import PrepareConfig
from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily
from components.shared.programs.reading_settings import IMAGE_SETTINGS
from components.shared.tracking.mlflow_connection import TRACKING_OFF

_NO_PATH = ("auto", "never")


def check_inputs(settings: dict[str, dict[str, Any]], prepare: PrepareConfig, family: ModelFamily) -> None:
    """Refuse settings that name what is not there, or that this base model does not have.

    Raises:
        UserError: names the setting.
    """
    _check_fonts(prepare)
    _check_checkpoint(settings["train"])
    _check_image_settings(settings["evaluate"], family)
    _check_no_repeat(settings["evaluate"], family)
    _check_bertscore(settings["evaluate"])
    _check_registry(settings["export"])


def _check_fonts(prepare: PrepareConfig) -> None:
    from components.prepare.typesetting.engine_choice import choose_engine
    from components.prepare.typesetting.fonts import find_fonts

    choose_engine(prepare.text_engine, find_fonts(prepare.fonts))


def _check_checkpoint(train: dict[str, Any]) -> None:
    named = train["resume_from_checkpoint"]
    if named not in _NO_PATH and not Path(named).is_dir():
        raise UserError(
            "no such checkpoint", where=f"train.resume_from_checkpoint {named!r}", mend="give its folder, auto or never"
        )


def _check_image_settings(evaluate: dict[str, Any], family: ModelFamily) -> None:
    given = [name for name in IMAGE_SETTINGS if evaluate[name] is not None]
    if given and not family.has_image_settings:
        raise UserError(
            f"the DeepSeek-OCR models are read so; a model of the family {family.name!r} has no such setting",
            where=", ".join(f"evaluate.{name}" for name in given),
            mend="leave it out",
        )


def _check_no_repeat(evaluate: dict[str, Any], family: ModelFamily) -> None:
    named = evaluate["no_repeat_ngram_size"]
    published = {"family": family.no_repeat_ngram, "family-pdf": family.no_repeat_ngram_pdf}
    if named in published and published[named] is None:
        raise UserError(
            f"the authors of the family {family.name!r} publish no such rule",
            where=f"evaluate.no_repeat_ngram_size {named!r}",
            mend="leave it out, or give numbers, for instance 20 and evaluate.no_repeat_ngram_window 90",
        )


def _check_bertscore(evaluate: dict[str, Any]) -> None:
    if evaluate["bertscore_model"] is None:
        return
    folder, layer = Path(evaluate["bertscore_model"]), evaluate["bertscore_layer"]
    where = f"evaluate.bertscore_model {str(folder)!r}"
    mend = "give a folder that holds an encoder and its fast tokenizer, as save_pretrained writes them"
    try:
        layers = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError("no text encoder there: its config.json cannot be read", where=where, mend=mend) from error
    if layer is not None and isinstance(layers, int) and layer > layers:
        raise UserError(
            f"the model has {layers} layers", where=f"evaluate.bertscore_layer {layer}", mend=f"give 0 to {layers}"
        )


def _check_registry(export: dict[str, Any]) -> None:
    if export["register_as"] and os.environ.get("MLFLOW_TRACKING_URI", "").lower() == TRACKING_OFF:
        raise UserError(
            "tracking is off, so there is no registry",
            where=f"export.register_as {export['register_as']!r} with MLFLOW_TRACKING_URI=off",
            mend="leave it out, or name a tracking server",
        )
