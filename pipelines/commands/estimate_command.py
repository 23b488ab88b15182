"""``deepsynth estimate`` and ``deepsynth presets``: a training's memory before it starts, and named settings."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from components.shared.artifacts.output_file import check_output, written_file
from components.shared.programs.step_config import validated
from components.shared.telemetry.terminal import output_console

_GIB = 2**30


def presets() -> None:
    """Print the training presets: named sets of settings."""
    from components.train.presets import preset_table

    table = Table("preset", "purpose", "settings")
    for row in preset_table():
        table.add_row(*row.values())
    output_console(120).print(table)


def estimate(
    base_model: Annotated[str, typer.Option(help="A model folder, a hub id, or tiny-base.")] = "tiny-base",
    preset: Annotated[str | None, typer.Option(help="A named set of settings; see deepsynth presets.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting of the train step. May be repeated."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens per row, including the image tokens.")] = 2048,
    page_width: Annotated[int, typer.Option(min=16, help="Pixels.")] = 1024,
    page_height: Annotated[int, typer.Option(min=16, help="Pixels.")] = 1024,
    # On two busy CPU cores: 19 s for tiny-base, 37 and 50 s for a full-size DeepSeek-OCR-2 (9 s with --no-limits).
    limits: Annotated[
        bool, typer.Option(help="Show GPU types, largest batch, longest context; up to 2 minutes.")
    ] = True,
    output_json: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Predict a training's memory from the model's config alone, without weights or a GPU.

    **Examples**

    - `deepsynth estimate --base-model deepseek-community/DeepSeek-OCR-2 --preset unsloth_4bit`

    - `deepsynth estimate --preset qlora_4bit --set per_device_train_batch_size=2 --tokens 4096`
    """
    if output_json:
        check_output(output_json, "--json")
    config = _train_config(base_model, preset, set_ or [])
    # Imported late: torch and transformers take seconds.
    from transformers.utils import logging as transformers_logging

    from components.train.estimate.gpu_limits import gpu_limits
    from components.train.estimate.memory_estimate import Pages, estimate_memory
    from components.train.estimate.model_on_meta import load_architecture

    transformers_logging.set_verbosity_error()
    pages = Pages(page_width, page_height, tokens)
    backend = "standard" if config.backend == "standard" or config.peft == "none" else "unsloth"
    predicted = estimate_memory(config, pages, backend)
    console = output_console(120)
    console.print(_parts_table(predicted, config, pages))
    rows: list[Any] = []
    if limits:
        positions = getattr(load_architecture(config).get_text_config(), "max_position_embeddings", 2**17)
        rows = gpu_limits(config, pages, predicted, positions)
        console.print(_limits_table(rows, positions))
    if output_json:
        figures = {**asdict(predicted), "gpus": [asdict(row) for row in rows]}
        with written_file(output_json) as partial:
            partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def _train_config(base_model: str, preset: str | None, settings: list[str]) -> Any:
    from components.train.config import TrainConfig
    from pipelines.settings.command_settings import parsed_setting

    values = {"base_model": base_model, "dataset_dir": "dataset", "output_dir": "adapter"}
    if preset:
        values["preset"] = preset
    return validated(TrainConfig, {**values, **dict(map(parsed_setting, settings))}, "deepsynth estimate")


def _parts_table(predicted: Any, config: Any, pages: Any) -> Table:
    batch = config.per_device_train_batch_size
    bound = ", an upper bound: Unsloth keeps less" if predicted.upper_bound else ""
    table = Table(
        "part",
        title=f"{config.base_model}, {predicted.backend} backend: {batch} pages of {pages.tokens} tokens"
        f" ({predicted.page_tokens} of them picture and prompt){bound}",
    )
    table.add_column("GiB", justify="right")
    formats = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in predicted.weight_bytes.items())
    for part, size in predicted.parts.items():
        table.add_row(f"{part} ({formats})" if part == "weights" and formats else part, f"{size / _GIB:.2f}")
    table.add_row("peak", f"{predicted.peak_bytes / _GIB:.2f}", style="bold")
    table.add_row("while loading", f"{predicted.loading_peak_bytes / _GIB:.2f}")
    table.caption = f"{predicted.trainable_parameters:,} of {predicted.parameters:,} parameters are trained"
    return table


def _limits_table(rows: list[Any], positions: int) -> Table:
    table = Table("GPU", "usable GiB", "fits", "largest batch", "longest context")
    for row in rows:
        table.add_row(
            row.gpu,
            f"{row.usable_bytes / _GIB:.1f}",
            "yes" if row.fits else "no",
            "-" if row.largest_batch is None else str(row.largest_batch),
            "-" if row.longest_context is None else f"{row.longest_context:,}",
        )
    table.caption = (
        f"with a margin of 10 %; batch: of such pages, up to 512; context: tokens of one page, up to the model's"
        f" {positions:,}. A T4 has no bfloat16 units and is slow in it."
    )
    return table
