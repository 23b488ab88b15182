"""``deepsynth submit --dry-run``: what would be sent to a cluster and run there; nothing is uploaded or started."""

from pipelines.cluster.kfp_api import KfpApi
from pipelines.cluster.pipeline_package import planned_version
from pipelines.definition.environment import Environment, Resources
from pipelines.planning.dry_run import training_memory
from pipelines.settings.pipeline_config import SharedSettings
from pipelines.settings.step_sections import STEP_CONFIGS


def planned_submission(
    api: KfpApi, environment: Environment, config: SharedSettings, prepare_partitions: int, *, cache: bool
) -> list[str]:
    """Return what ``deepsynth submit`` would do, as lines for a terminal.

    The settings are checked before. What only the cluster knows is not: the documents, the champion, the tasks that
    KFP's cache answers; ``deepsynth doctor`` looks at the cluster itself.

    Raises:
        UserError: the server refuses.
    """
    name, there = planned_version(api, environment, prepare_partitions, cache=cache)
    steps = [step for step in STEP_CONFIGS if step not in config.skip]
    gpu = environment.gpu
    devices = f"{gpu.count} x {gpu.resource}" if gpu.count else "no GPU, the CPU image"
    return [
        f"{'server:':<11}{api.host}, experiment {environment.experiment}",
        f"{'pipeline:':<11}version {name}, {'which is there' if there else 'to be uploaded'}",
        f"{'would run:':<11}{', '.join(steps)} if the gate promotes",
        f"{'cache:':<11}{'the server answers tasks that have not changed' if cache else 'off: every task runs'}",
        f"{'GPU tasks:':<11}{devices}, {_limits(environment.resources.gpu)}",
        f"{'memory:':<11}{training_memory(config, runs_here=False)}",
    ]


def _limits(resources: Resources) -> str:
    named = {"CPU": resources.cpu_limit, "memory": resources.memory_limit}
    limits = [f"{name} limit {value}" for name, value in named.items() if value]
    return ", ".join(limits) or "no limits"
