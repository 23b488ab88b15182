"""The options that the commands for a cluster share, and what they stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.cluster.kfp_api import KfpApi
    from pipelines.definition.environment import Environment

PreparePartitions = Annotated[
    int,
    typer.Option(min=1, max=1000, help="Draw the pages in this many tasks and merge them; same dataset, any number."),
]
EnvironmentFile = Annotated[
    Path | None,
    typer.Option(
        "--environment",
        envvar="DEEPSYNTH_ENVIRONMENT",
        help="The cluster's YAML file, such as manifests/environments/production.yaml: images, GPUs, volumes, secrets.",
    ),
]
Host = Annotated[
    str | None,
    typer.Option(envvar="KFP_HOST", help="KFP's address, e.g. http://127.0.0.1:8080; without it, the environment's."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML or JSON file; without it, the quickstart's settings.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be given many times."),
]
Experiment = Annotated[str | None, typer.Option(help="KFP's experiment of the run; without it, the environment's.")]


def cluster_environment(path: Path | None, experiment: str | None = None) -> "Environment":
    """Return the environment of the file, or the defaults, with ``experiment`` above it."""
    from pipelines.definition.environment import Environment, read_environment

    settings = read_environment(path) if path else Environment()
    return settings.model_copy(update={"experiment": experiment}) if experiment else settings


def connected(host: str | None, environment: "Environment") -> "KfpApi":
    """Return the KFP server at ``host``, or at the environment's, which has answered.

    Raises:
        UserError: there is none, it does not answer, or it refuses.
    """
    from pipelines.cluster.kfp_api import connect

    return connect(host or environment.host, environment.namespace)
