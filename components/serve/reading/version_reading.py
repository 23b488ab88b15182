"""How a version's pages are read: as its package was evaluated, where the service's settings say nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import ProcessorMixin

from components.serve.config import ServeConfig
from components.serve.reading.evaluated import EvaluatedReading
from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.programs.reading_settings import IMAGE_SETTINGS
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.image_text_inputs import prompt_text
from components.shared.reading.no_repeat_settings import NoRepeatSettings

_IMAGE_OPTIONS = ("size", "tile_size", "crop_to_patches", "max_patches")
_RULE_SETTINGS = {"no_repeat_ngram_size", "no_repeat_ngram_window"}
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands in no template


@dataclass(frozen=True)
class VersionReading:
    """How a version's pages are read.

    Attributes:
        family: with the version's own prompt and image options.
        no_repeat: sequences of tokens that an answer may not repeat; None for greedy search alone.
        max_new_tokens: the longest answer of a page whose client says none.
        most_new_tokens: the longest answer that a client can ask for.
        differs: what is not as in the evaluation of the version's package: what was measured there does not hold.
    """

    family: ModelFamily
    no_repeat: NoRepeatNgrams | None
    max_new_tokens: int
    most_new_tokens: int
    differs: tuple[str, ...] = ()

    def longest(self, wanted: int | None) -> int:
        """Return the longest answer in tokens for a client that wants ``wanted``; None: it does not say."""
        return min(wanted or self.max_new_tokens, self.most_new_tokens)


def version_reading(
    config: ServeConfig,
    evaluated: EvaluatedReading | None,
    processor: ProcessorMixin,
    family: ModelFamily,
    *,
    always_sees: Mapping[str, Any] | None = None,
) -> VersionReading:
    """Return how a version's pages are read; its ``processor`` gets the image options too.

    What the service's settings give holds for every version. The rest is as the version's package was evaluated, and
    the settings' defaults where there is no package.

    Args:
        always_sees: the image options with which the engine sees every page; None: it takes any.

    Raises:
        UserError: the model does not have a setting, what scaled the pictures in the evaluation is not installed, or
            the package's prompt holds no instruction.
    """
    given = config.model_fields_set
    options = evaluated.image_options if evaluated else {}
    own = {name: getattr(processor.image_processor, name, None) for name in {*_IMAGE_OPTIONS, *options}}
    if evaluated and always_sees is None:
        with_image_settings(ImageSettings(image_backend=evaluated.image_backend), processor, family)
    if given & set(IMAGE_SETTINGS) or not options:
        family = with_image_settings(ImageSettings.of(config.model_dump()), processor, family)
    elif always_sees is None:
        family = _with_image_options(options, processor, family)
    rule = NoRepeatSettings.of(config.model_dump(), family).rule(processor, family)
    if evaluated is None:
        return VersionReading(family, rule, config.max_new_tokens, config.max_new_tokens)
    used = family.image_options if always_sees is None else always_sees
    differs = [] if {**own, **used} == {**own, **options} else ["the sizes of its pictures"]
    said = evaluated.no_repeat_ngrams
    evaluated_rule = NoRepeatNgrams(said.size, said.window, said.allowed) if said else None
    if not given & _RULE_SETTINGS:
        rule = evaluated_rule
    differs += [] if rule == evaluated_rule else ["the rule against repetitions"]
    family = replace(family, prompt=_instruction(evaluated, processor, family))
    differs += [] if prompt_text(processor, family, None) == evaluated.prompt else ["the prompt's template"]
    longest = config.max_new_tokens if "max_new_tokens" in given else evaluated.max_new_tokens
    return VersionReading(family, rule, longest, max(longest, config.max_new_tokens), tuple(differs))


def _with_image_options(options: Mapping[str, Any], processor: ProcessorMixin, family: ModelFamily) -> ModelFamily:
    for name, value in options.items():  # the processor counts image tokens by its attributes
        setattr(processor.image_processor, name, value)
    return replace(family, image_options={**family.image_options, **options})


def _instruction(evaluated: EvaluatedReading, processor: ProcessorMixin, family: ModelFamily) -> str:
    """Return the text in the evaluated prompt, which older packages give as a whole only.

    Raises:
        UserError: the processor makes no prompt like it.
    """
    if evaluated.says_instruction:
        return evaluated.instruction or family.prompt
    if prompt_text(processor, family, None) == evaluated.prompt:
        return family.prompt
    before, _, after = prompt_text(processor, family, _MARK).partition(_MARK)
    found = evaluated.prompt.removeprefix(before).removesuffix(after)
    if not found or before + found + after != evaluated.prompt:
        problem = f"its prompt is not one of the model's template: {evaluated.prompt!r}"
        raise UserError(problem, where="the package's inference_config.json", mend="export again")
    return found
