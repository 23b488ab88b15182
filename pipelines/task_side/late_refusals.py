"""Settings that a late step is sure to refuse; the run's first task refuses them before anything is trained."""

from typing import Any

from components.export.publication.hub_upload import required_token
from components.shared.errors import UserError
from components.shared.models.model_families import ModelFamily


def check_late_steps(settings: dict[str, dict[str, Any]]) -> None:
    """Refuse settings that evaluate, gate or export would refuse hours later.

    Raises:
        UserError: no pages are held out, the held-out pages are the training's own, there will be no adapter to merge,
            or an upload has no token.
    """
    _check_held_out_pages(settings["prepare"])
    if settings["evaluate"]["split"] == "train":
        raise UserError(
            "the gate promotes nothing by the pages of the training itself",
            where="evaluate.split 'train'",
            mend="set it to 'eval', or run the evaluate step alone: python -m components.evaluate",
        )
    if settings["export"]["merge"] and settings["train"]["peft"] == "none":
        raise UserError(
            "train makes a whole model, so there is no adapter to merge",
            where="export.merge with train.peft 'none'",
            mend="leave export.merge off, or set train.peft to 'lora'",
        )
    if settings["export"].get("push_to_hub"):
        required_token()


def check_served_family(settings: dict[str, dict[str, Any]], family: ModelFamily) -> None:
    """Refuse a family that ``export.serving`` names an engine for which does not serve it, or reads pages otherwise.

    Raises:
        UserError: the engine does not serve the family, or none of its adapters, or not with these modules or image
            settings.
    """
    if not settings["export"]["serving"]:
        return
    from components.shared.vllm.served_families import served_family

    adapter = settings["train"]["peft"] != "none" and not settings["export"]["merge"]
    served = served_family(family.name, adapter=adapter)
    for name in ("finetune_vision_layers", "adapt_experts"):
        if adapter and settings["train"][name]:
            raise UserError(
                f"vLLM's {served.vllm_class} does not adapt what train.{name} trains, and would read without it",
                where=f"export.serving ['vllm'] with train.{name}",
                mend="set export.merge, and the merged weights are served; or train without it",
            )
    if served.fixed_sizes is None:
        return
    wanted: dict[str, int | None] = dict(zip(("base_size", "image_size"), served.fixed_sizes, strict=True))
    wanted |= {"crop_mode": True, "max_crops": served.max_crops}
    by_default = wanted | {"max_crops": family.max_crops}
    for name, value in wanted.items():
        given = settings["evaluate"][name]
        if (by_default[name] if given is None else given) != value:
            raise UserError(
                f"vLLM's {served.vllm_class} reads pages with {name} {value}, which it cannot be told otherwise",
                where=f"export.serving ['vllm'] with evaluate.{name} {'by default' if given is None else given}"
                + (f" {by_default[name]}" if given is None else ""),
                mend=f"set evaluate.{name} to {value}, so that the evaluation is of what is served",
            )


def _check_held_out_pages(prepare: dict[str, Any]) -> None:
    if prepare["holdout"]:
        return
    if prepare["eval_fraction"] == 0:
        raise UserError(
            "no page is held out, and evaluate needs some",
            where="prepare.eval_fraction 0",
            mend="set it above 0, or name documents to hold out in prepare.holdout",
        )
    if prepare["max_documents"] == 1:
        raise UserError(
            "one document cannot be split between train and eval",
            where="prepare.max_documents 1",
            mend="allow at least two, or name documents to hold out in prepare.holdout",
        )
