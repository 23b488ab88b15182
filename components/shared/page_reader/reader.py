"""A package's model, loaded once, that turns page pictures into text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .letters import LetterHeight, warning_about
from .loading import load_model, load_processor

SETTINGS_FILE = "inference_config.json"


def read_settings(package: Path) -> dict[str, Any]:
    """Return the settings with which the model was evaluated."""
    return dict(json.loads((package / SETTINGS_FILE).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Reading:
    """A page's text, and a warning about it or None."""

    text: str
    warning: str | None


class PageReader:
    """The model and its processor in the folder ``package``.

    Args:
        settings: what ``read_settings`` returns, with changes.
        letter_height: estimates how high a page's letters are.
        base_model: folder or hub id of the base; None for the package's own.
        device: ``cpu``, ``cuda`` or ``auto``.
    """

    def __init__(
        self,
        package: Path,
        settings: dict[str, Any],
        letter_height: LetterHeight,
        *,
        base_model: str | None = None,
        device: str = "auto",
    ) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.settings = settings
        self.letter_height = letter_height
        self.processor = load_processor(package, settings)
        for name, value in settings["image_options"].items():  # the processor counts image tokens by its attributes
            setattr(self.processor.image_processor, name, value)
        self.model = load_model(package, settings, base_model, getattr(torch, settings["dtype"][device]))
        self.model = self.model.to(device).eval()
        self.end_tokens = _end_tokens(self.model, self.processor.tokenizer)

    def read(self, image: Any) -> Reading:
        """Return the transcription of a page, decoded greedily."""
        import torch

        settings = self.settings
        options = {**settings["text_options"], **settings["image_options"]}
        inputs = self.processor(images=[image], text=[settings["prompt"]], return_tensors="pt", **options).to(
            self.model.device, self.model.dtype
        )
        warning = warning_about(image, inputs, settings.get("letters"), self.letter_height)
        pad = self.processor.tokenizer.pad_token_id
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=settings["max_new_tokens"],
                eos_token_id=self.end_tokens,
                pad_token_id=self.end_tokens[0] if pad is None else pad,
                logits_processor=_rules(settings.get("no_repeat_ngrams"), inputs["input_ids"].shape[1]),
            )
        answer = output[0, inputs["input_ids"].shape[1] :].tolist()
        end = next((index for index, token in enumerate(answer) if token in self.end_tokens), None)
        text = str(self.processor.tokenizer.decode(answer[:end], skip_special_tokens=True))
        return Reading(text, warning if text.strip() or warning else "no text was read")


def _rules(no_repeat: dict[str, Any] | None, prompt_tokens: int) -> list[Any]:
    """Return what the evaluation ruled out while it decoded; packages of older versions have no such setting."""
    if no_repeat is None:
        return []
    from .no_repeat_ngrams import NoRepeatNgrams, NoRepeatNgramsProcessor

    rule = NoRepeatNgrams(no_repeat["size"], no_repeat["window"], tuple(no_repeat["allowed"]))
    return [NoRepeatNgramsProcessor(rule, prompt_tokens)]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the token ids that end an answer: the generation config's and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    tokens = list(configured) if isinstance(configured, list) else [configured]
    return sorted({token for token in [*tokens, tokenizer.eos_token_id] if token is not None})
