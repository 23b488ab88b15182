"""The published names of the weights, and the model's own.

transformers renames weights by these rules when it loads a checkpoint, and back when it saves one. Each rule starts at
the beginning of a name: rules that match in its middle rename an adapter's weights too (as PEFT 0.21 does with
DeepSeek-OCR-2's).
"""

from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

_SAM, _CLIP = "model.vision_tower.sam_encoder.", "model.vision_tower.clip_encoder."
_RENAMED = {
    r"^model\.sam_model\.blocks\.(\d+)\.norm1\.": _SAM + r"layers.\1.layer_norm1.",
    r"^model\.sam_model\.blocks\.(\d+)\.norm2\.": _SAM + r"layers.\1.layer_norm2.",
    r"^model\.sam_model\.blocks\.(\d+)\.attn\.": _SAM + r"layers.\1.attn.",
    r"^model\.sam_model\.blocks\.(\d+)\.mlp\.": _SAM + r"layers.\1.mlp.",
    r"^model\.sam_model\.patch_embed\.proj\.": _SAM + "patch_embed.projection.",
    r"^model\.sam_model\.pos_embed": _SAM + "pos_embed",
    r"^model\.sam_model\.neck\.0\.": _SAM + "neck.conv1.",
    r"^model\.sam_model\.neck\.1\.": _SAM + "neck.layer_norm1.",
    r"^model\.sam_model\.neck\.2\.": _SAM + "neck.conv2.",
    r"^model\.sam_model\.neck\.3\.": _SAM + "neck.layer_norm2.",
    r"^model\.sam_model\.net_2\.": _SAM + "proj.conv1.",
    r"^model\.sam_model\.net_3\.": _SAM + "proj.conv2.",
    r"^model\.vision_model\.transformer\.layers\.": _CLIP + "layers.",
    r"^model\.vision_model\.embeddings\.": _CLIP + "embeddings.",
    r"^model\.vision_model\.pre_layrnorm\.": _CLIP + "pre_layrnorm.",
    r"^model\.projector\.layers\.": "model.multi_modal_projector.",
    r"^model\.view_seperator": "model.view_separator",
    r"^model\.embed_tokens\.": "model.language_model.embed_tokens.",
    r"^model\.layers\.": "model.language_model.layers.",
    r"^model\.norm\.": "model.language_model.norm.",
}


def weight_names() -> list[WeightRenaming | WeightConverter]:
    """Return the rules; each expert's projections become one tensor of all experts."""
    return [
        *(WeightRenaming(source_patterns=theirs, target_patterns=ours) for theirs, ours in _RENAMED.items()),
        WeightConverter(
            source_patterns=["mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"],
            target_patterns="mlp.experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            source_patterns="mlp.experts.*.down_proj.weight",
            target_patterns="mlp.experts.down_proj",
            operations=[MergeModulelist(dim=0)],
        ),
    ]
