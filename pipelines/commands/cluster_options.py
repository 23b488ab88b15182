"""The options that several commands share: of runs, and of clusters."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.cluster.kfp_api import KfpApi
    from pipelines.definition.environment import Environment


class SkippableStep(StrEnum):
    """The steps that a run can do without."""

    BENCHMARK = "benchmark"


PreparePartitions = Annotated[
    int,
    typer.Option(
        min=1,
        max=1000,
        help="Draw the pages in this many tasks; any number gives the same dataset.",
    ),
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
    typer.Option(envvar="KFP_HOST", help="KFP's address, e.g. http://127.0.0.1:8080. Default: the environment's."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML or JSON file. Default: the quickstart's settings.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting. May be repeated."),
]
Skip = Annotated[
    list[SkippableStep] | None, typer.Option("--skip", help="Leave out this step; the others need each other.")
]
Experiment = Annotated[str | None, typer.Option(help="KFP's experiment of the run. Default: the environment's.")]


def settings_of(set_: list[str] | None, skip: list[SkippableStep] | None) -> list[str]:
    """Return the settings that ``--set`` and ``--skip`` give, each as KEY=VALUE."""
    return [*(set_ or []), *([f"skip=[{', '.join(skip)}]"] if skip else [])]


def cluster_environment(path: Path | None, experiment: str | None = None) -> "Environment":
    """Return the file's environment, or the defaults; ``experiment`` overrides the environment's."""
    from pipelines.definition.environment import Environment, read_environment

    settings = read_environment(path) if path else Environment()
    return settings.model_copy(update={"experiment": experiment}) if experiment else settings


def connected(host: str | None, environment: "Environment") -> "KfpApi":
    """Return the KFP server at ``host``, or at the environment's host, after it has answered.

    Raises:
        UserError: no host is given, it does not answer, or it refuses.
    """
    from pipelines.cluster.kfp_api import connect

    return connect(host or environment.host, environment.namespace)
