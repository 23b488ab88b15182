"""``deepsynth serve``: the inference service on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.local.runs_folder import resolved_run


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            help="What reads: runs/ID, an adapter's or package's folder or zip, models:/NAME@champion, or a base's "
            "folder or hub id. Default: tiny-base."
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The adapter's base, if it is not where the adapter's files say.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; others than loopback need a token. Default: 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. Default: 8000.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file with settings of python -m components.serve.")
    ] = None,
) -> None:
    """Read pages over HTTP on this machine: an OpenAI-compatible API, and `/v1/ocr` for files.

    All settings: `python -m components.serve --help`. Clients' tokens are read from DEEPSYNTH_SERVE_TOKEN.

    **Example**: `deepsynth serve --model runs/20261129-101500 --port 8000`
    """
    from components.serve.config import ServeConfig
    from components.serve.step import run
    from components.shared.programs.step_command import step_main

    given = {"model": resolved_run(model), "base_model": base_model, "host": host, "port": port}
    flags = ["--config", str(config)] if config else []
    for name, value in given.items():
        flags += [f"--{name}", str(value)] if value is not None else []
    sys.exit(step_main("serve", ServeConfig, run, flags))
