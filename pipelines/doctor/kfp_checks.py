"""KFP: whether it answers, which release it is, and whether its pipeline root takes artifacts."""

from collections.abc import Iterator

from components.shared.errors import UserError
from pipelines.cluster.kfp_api import KfpApi, connect
from pipelines.definition.environment import Environment
from pipelines.doctor.finding import Finding

TRIED_RELEASES = ("2.17.0",)
_RUNS_LOOKED_AT = 100


def kfp_findings(host: str | None, environment: Environment) -> Iterator[Finding]:
    """Yield what KFP's API says, by the host that the commands use."""
    try:
        api = connect(host or environment.host, environment.namespace)
    except UserError as error:
        yield Finding("fault", "KFP", str(error))
        return
    users = "multi-user" if api.namespace else "single-user"
    if api.version in TRIED_RELEASES:
        yield Finding("ok", "KFP", f"{api.version}, {users}, at {api.host}")
    else:
        tried = ", ".join(TRIED_RELEASES)
        yield Finding("unknown", "KFP", f"release {api.version or 'not told'}, {users}; tried here: {tried}")
    yield _pipeline_root(api)


def _pipeline_root(api: KfpApi) -> Finding:
    """Return whether artifacts can be stored: only a run of the past tells, since steps alone have the keys."""
    where = {"namespace": api.namespace} if api.namespace else {}
    try:
        page = api.call("runs", "run_service_list_runs", page_size=_RUNS_LOOKED_AT, sort_by="created_at desc", **where)
    except UserError as error:
        return Finding("unknown", "pipeline root", f"runs cannot be listed ({error})")
    succeeded = [run for run in page.runs or [] if run.state == "SUCCEEDED"]
    if succeeded:
        return Finding("ok", "pipeline root", f"run {succeeded[0].display_name} stored its artifacts")
    return Finding(
        "unknown",
        "pipeline root",
        "no run has succeeded yet, so nobody has tried the bucket",
        "a missing bucket ends the first run before its first step: see defaultPipelineRoot in ConfigMap kfp-launcher",
    )
