"""How a base's ``generation_config.json`` changes greedy search, as arguments of requests to vLLM.

The evaluation and the embedded engine obey that file, as transformers' ``generate`` does. vLLM obeys part of it, and
only if it was started so; therefore each request says what holds.
"""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.model_loading import hub_options

_PENALTY = "repetition_penalty"  # of prompt and answer, with one formula in both
_NOT_IN_VLLM: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale"), (None, 1.0)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (None, 0)),
    **dict.fromkeys(("min_length", "min_new_tokens"), (None, 0)),
    **dict.fromkeys(("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings"), (None, [])),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "penalty_alpha", "dola_layers"), (None,)),
    **dict.fromkeys(("exponential_decay_length_penalty", "sequence_bias", "watermarking_config", "max_time"), (None,)),
}
"""What else changes what transformers decodes greedily (GenerationMixin._get_logits_processor and
_get_stopping_criteria of transformers 5.17), with the values that change nothing."""


def generation_arguments(base: str, revision: str | None) -> dict[str, Any]:
    """Return what requests must say so that vLLM decodes as the evaluation does.

    Raises:
        UserError: the file asks for what vLLM's API cannot do.
    """
    location = base_model_location(base)
    try:
        config = GenerationConfig.from_pretrained(location, revision=revision or "main", **hub_options(location))
    except OSError:  # there is none
        return {_PENALTY: 1.0}
    said = {name: getattr(config, name, None) for name in _NOT_IN_VLLM}
    asked = [f"{name} {value}" for name, value in said.items() if value not in _NOT_IN_VLLM[name]]
    if asked:
        raise UserError(
            f"the base's generation_config.json asks for {', '.join(asked)}, which vLLM does not do: it would read"
            " otherwise than the evaluation",
            where=base,
            mend="take engine embedded, or remove it from the file and evaluate again",
        )
    return {_PENALTY: float(getattr(config, _PENALTY, None) or 1.0)}


def has_penalty(arguments: Mapping[str, Any]) -> bool:
    """Return whether a request's arguments have a repetition penalty."""
    return bool(arguments[_PENALTY] != 1.0)
