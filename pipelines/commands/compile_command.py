"""``deepsynth compile``: write the pipeline to a file, as KFP's IR or as Kubernetes objects."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from components.shared.artifacts.output_file import check_output, written_file
from components.shared.errors import UserError
from pipelines.commands.cluster_options import EnvironmentFile, PreparePartitions


def compile_pipeline(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write (.yaml).")] = Path("pipeline.yaml"),
    image: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSYNTH_IMAGE",
            help="Without an environment: the steps' image, with an immutable tag. Default: what `make images` built.",
        ),
    ] = None,
    environment: EnvironmentFile = None,
    prepare_partitions: PreparePartitions = 1,
    kubernetes_manifest: Annotated[
        bool,
        typer.Option(
            "--kubernetes-manifest",
            help="Write the Kubernetes objects Pipeline and PipelineVersion, for KFP in Kubernetes-native mode.",
        ),
    ] = False,
) -> None:
    """Compile the pipeline to KFP's IR YAML.

    `deepsynth submit` does this itself; the file is for KFP's UI, other clients or GitOps.

    **Examples**

    - for a cluster: `deepsynth compile -o pipeline.yaml --environment manifests/environments/production.yaml`

    - for KFP in Kubernetes-native mode; apply the file with `kubectl apply -f pipeline.yaml`:
      `deepsynth compile -o pipeline.yaml --environment production.yaml --kubernetes-manifest`

    - with one image and no other settings:
      `deepsynth compile --image ghcr.io/me/deepsynth-pipelines-python:0.1.0-abc123`

    - for more documents than one task can draw: `deepsynth compile --prepare-partitions 16`
    """
    check_output(output, "--output", ".yaml", ".yml")
    from components.shared.versions import code_tag
    from pipelines.definition.environment import CPU_IMAGE, read_environment

    if environment is None:
        if image:
            _check_tag(image)
        else:
            image = f"{CPU_IMAGE}:{code_tag()}"  # as `make images` names it
        os.environ["DEEPSYNTH_IMAGE"] = image  # before the components, which read it, are imported
    from pipelines.cluster.pipeline_package import write_package

    settings = read_environment(environment) if environment else None
    options: dict[str, Any] = {}
    if kubernetes_manifest:
        version = settings.version if settings else image.rpartition(":")[2] if image else code_tag()
        options = _kubernetes_options(version, settings.namespace if settings else None)
    with written_file(output) as partial:
        write_package(partial, settings, prepare_partitions, **options)
    Console().print(f"{output} is ready", markup=False, highlight=False, soft_wrap=True)


def _check_tag(image: str) -> None:
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        mend = "use a tag that never changes, such as version-commit"
        problem = f"the tag is {tag or 'missing'}, and KFP's cache identifies an image by its name"
        raise UserError(problem, where=f"--image {image}", mend=mend)


def _kubernetes_options(version: str, namespace: str | None) -> dict[str, Any]:
    from kfp.compiler import KubernetesManifestOptions

    from pipelines.cluster.pipeline_package import kubernetes_name
    from pipelines.definition.environment import PIPELINE_NAME

    options = KubernetesManifestOptions(
        pipeline_name=PIPELINE_NAME,
        pipeline_version_name=kubernetes_name(f"{PIPELINE_NAME}-{version}"),
        pipeline_version_display_name=version,
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    return {"kubernetes_manifest_options": options, "kubernetes_manifest_format": True}
