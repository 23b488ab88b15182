"""The prefill of pages that enter a running batch, with a cache of their own."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature, DynamicCache, GenerationConfig

from components.shared.reading.graphed_decoding import (
    PROMPT_TENSORS,
    STEP_TENSORS,
    RecordingError,
    refuse_more_than_greedy,
)


@dataclass(frozen=True)
class Prompted:
    """What a prefill leaves: its cache, the first tokens, and what a step needs to go on from there."""

    cache: Any
    tokens: torch.Tensor
    logprobs: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    settings: dict[str, Any]


def prompt_rows(model: Any, inputs: BatchFeature, max_new_tokens: int) -> Prompted:
    """Prefill pages: transformers' ``generate`` makes positions and masks, and one forward pass fills a cache."""
    found: list[Prompted] = []

    def prefill(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        refuse_more_than_greedy(generation_config, logits_processor, stopping_criteria)
        prompt = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        output = model(**prompt, return_dict=True)
        logits = output.logits[:, -1].float()
        highest, token = logits.max(dim=-1)
        model_kwargs = model._update_model_kwargs_for_generation(output, model_kwargs)
        longer = torch.cat([input_ids, token[:, None]], dim=1)
        step = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **model_kwargs)
        tensors = {name for name, value in step.items() if isinstance(value, torch.Tensor)}
        if odd := STEP_TENSORS - tensors | tensors - STEP_TENSORS - PROMPT_TENSORS:
            raise RecordingError(f"of {', '.join(sorted(odd))} it is not known what a step does with it")
        settings = {name: value for name, value in step.items() if name not in tensors}
        mask = model_kwargs["attention_mask"][:, : input_ids.shape[1]]
        logprobs = highest - logits.logsumexp(dim=-1)
        found.append(Prompted(output.past_key_values, token, logprobs, step["position_ids"], mask, settings))
        return input_ids

    # The class's method: Unsloth replaces the instance's by one that always uses its own cache.
    type(model).generate(
        model,
        **inputs,
        past_key_values=DynamicCache(config=model.config.get_text_config(decoder=True)),
        cache_implementation=None,
        custom_generate=prefill,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=None,
        pad_token_id=0,
    )
    return found[0]
