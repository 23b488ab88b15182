"""Lets a model take pages' vision features from the batch, and compute those that the batch does not have."""

from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from components.shared.errors import UserError
from components.train.vision.features_store import BROUGHT_FEATURES
from components.train.vision.frozen_vision import inner_model

# Outputs of vision encoders that no language model reads. The prefix local_ is that of DeepSeek's crops.
_UNREAD_OUTPUTS = {"last_hidden_state", "hidden_states", "attentions"}
_UNREAD_PREFIX = "local_"


class ServedFeatures:
    """Within the context, ``model`` uses the features in batches of ``PageCollator``.

    A hook removes the batch's features from the arguments before ``forward`` is called, and the model's
    ``get_image_features`` returns them. The forward functions, which Unsloth rewrites, are not changed.

    Attributes:
        computed: pages whose features were computed in a forward pass.
        corrupt: pages among them whose stored file was corrupt.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.computed = 0
        self.corrupt = 0
        self._model = model
        self._inner = inner_model(model)
        self._compute = self._inner.get_image_features
        self._brought: dict[str, Any] | None = None

    def __enter__(self) -> "ServedFeatures":
        self._before = vars(self._inner).get("get_image_features")
        # Not traced when Unsloth compiles the caller: each batch has other token counts and would be recompiled.
        self._inner.get_image_features = torch.compiler.disable(self._image_features)
        self._hook = self._model.register_forward_pre_hook(self._take_out, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        del self._inner.get_image_features
        if self._before:
            self._inner.get_image_features = self._before

    def features_of(self, image_inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the features that the model computes, one tensor (image tokens, hidden size) per picture.

        Raises:
            UserError: the model returns something else.
        """
        output = self._compute(**image_inputs, return_dict=True)
        features = getattr(output, "pooler_output", None)
        more = [
            name
            for name, value in (output.items() if features is not None else ())
            if value is not None and name not in {"pooler_output", *_UNREAD_OUTPUTS}
            if not name.startswith(_UNREAD_PREFIX)
        ]
        if more or not isinstance(features, list | tuple) or any(each.dim() != 2 for each in features):
            what = f"more than features ({', '.join(more)})" if more else "features in another form"
            raise UserError(
                f"features cannot be kept for this model: its vision part hands over {what}",
                where="vision_features_dir",
                mend="leave it out",
            )
        return list(features)

    def _take_out(self, model: torch.nn.Module, places: tuple[Any, ...], options: dict[str, Any]) -> Any:
        options = dict(options)
        self._brought = options.pop(BROUGHT_FEATURES, None)
        return places, options

    def _image_features(self, *places: Any, **options: Any) -> Any:
        brought, self._brought = self._brought, None
        if brought is None:  # generation, whose inputs come from the processor
            return self._compute(*places, **options)
        tokens: list[int] = brought["tokens"]
        self.computed += tokens.count(0)
        self.corrupt += brought["corrupt"]
        stored = iter(torch.split(brought["features"], [count for count in tokens if count]))
        computed = iter(self.features_of(brought["pictures"]) if 0 in tokens else [])
        return BaseModelOutputWithPooling(
            pooler_output=tuple(next(stored) if count else next(computed) for count in tokens)  # type: ignore[arg-type]
        )
