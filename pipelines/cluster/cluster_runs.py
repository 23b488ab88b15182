"""Start runs of the pipeline in KFP."""

from typing import Any

from kfp_server_api import (
    V2beta1Experiment,
    V2beta1PipelineVersionReference,
    V2beta1Run,
    V2beta1RuntimeConfig,
)

from pipelines.cluster.kfp_api import KfpApi
from pipelines.cluster.pipeline_package import UploadedVersion
from pipelines.definition.environment import Environment


def experiment_id(api: KfpApi, name: str) -> str:
    """Return the id of KFP's experiment ``name``; create it if it does not exist."""
    where = {"namespace": api.namespace} if api.namespace else {}
    found = api.named("experiments", "experiment_service_list_experiments", "experiments", name, **where)
    if not found:
        wanted = V2beta1Experiment(display_name=name, namespace=api.namespace)
        found = [api.call("experiments", "experiment_service_create_experiment", experiment=wanted)]
    return str(found[0].experiment_id)


def version_reference(version: UploadedVersion) -> Any:
    """Return the reference to the pipeline's version that a run needs."""
    return V2beta1PipelineVersionReference(pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id)


def plugins_input(environment: Environment) -> dict[str, Any] | None:
    """Return the experiment's name for KFP's MLflow plugin, if the environment leaves tracking to the plugin."""
    if environment.mlflow_tracking_uri is not None:
        return None
    return {"mlflow": {"experiment_name": environment.mlflow_experiment}}


def start_run(
    api: KfpApi, environment: Environment, version: UploadedVersion, name: str, parameters: dict[str, Any]
) -> str:
    """Start a run of ``version`` in the environment's experiment, and return its id."""
    run = V2beta1Run(
        experiment_id=experiment_id(api, environment.experiment),
        display_name=name,
        pipeline_version_reference=version_reference(version),
        runtime_config=V2beta1RuntimeConfig(parameters=parameters),
        service_account=environment.service_account,
        plugins_input=plugins_input(environment),
    )
    return str(api.call("runs", "run_service_create_run", run=run).run_id)
