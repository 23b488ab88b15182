# ruff: noqa: UP045 (KFP reads Optional[X], not X | None)
"""The pipeline: configure, prepare (in one task, or in partitions), train, evaluate and benchmark, gate, export."""

import inspect
from typing import Any, Optional

from kfp import dsl

from pipelines.definition import tasks as components
from pipelines.definition.environment import PIPELINE_NAME, Environment
from pipelines.definition.kubernetes_settings import Kind, apply_settings, keep_checkpoints, pipeline_limits, retry
from pipelines.definition.task_titles import TASK_TITLES
from pipelines.settings.pipeline_parameters import (
    CONFIG_DESCRIPTION,
    PAGES_DESCRIPTION,
    SKIP_DESCRIPTION,
    pipeline_parameters,
)
from pipelines.task_side.step_settings import RUN, TRAIN

_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


def finetune_pipeline(
    prepare_partitions: int = 1,
    drawn_at_once: int | None = None,
    environment: Environment | None = None,
    *,
    cache: bool = True,
) -> Any:
    """Return the pipeline.

    The number of partitions is fixed at compile time: with 1 partition a loop would cost two more processes (or pods),
    and KFP 2.17's local runner cannot join the artifacts of two branches.

    Args:
        prepare_partitions: 1: one task prepares the dataset; more: that many tasks draw its pages, and one merges them
            to the same bytes.
        drawn_at_once: partitions that are drawn at the same time; None: as many as the cluster has room for.
        environment: the cluster's images, resources, volumes and addresses; None: images by DEEPSYNTH_IMAGE and
            DEEPSYNTH_GPU_IMAGE, and no Kubernetes settings but the run's id.
        cache: let KFP reuse the outputs of an earlier task with the same inputs.
    """
    steps = _Steps(environment, cache)

    def finetune(*given: Any) -> None:
        # KFP passes the parameters in the order of the signature below; configure's inputs have the same names. It is
        # outside the exit handler: KFP 2.17's backend cannot pass an unset parameter into a sub-pipeline. If it fails,
        # MLflow has no run yet.
        values = dict(zip(_signature().parameters, given, strict=True))
        # On a cluster KFP puts the run's display name in this placeholder's place.
        configured = components.configure(**values, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
        # Never cached: the source's content may have changed under the same name.
        steps.described(configured, "control").set_caching_options(False)
        keep_checkpoints(configured, environment, mounted=False)
        settings = configured.outputs

        closing = components.close_run()
        steps.described(closing, "control").set_caching_options(False)
        with (
            dsl.ExitHandler(closing, name="steps"),
            dsl.If(settings["decision"] == TRAIN, name="data-is-new"),
        ):
            steps.add(settings, prepare_partitions, drawn_at_once)

    finetune.__signature__ = _signature()  # type: ignore[attr-defined]
    finetune.__doc__ = _docstring()
    return dsl.pipeline(
        name=PIPELINE_NAME,
        pipeline_config=pipeline_limits(environment),
        description="Documents in; out come a fine-tuned adapter, its evaluation against the base, and a package.",
    )(finetune)


def _signature() -> inspect.Signature:
    """Return the pipeline's parameters: a configuration text, the settings that have their own parameter, a switch."""
    return inspect.Signature(
        [
            inspect.Parameter("config", _KIND, default="", annotation=str),
            *(
                inspect.Parameter(one.name, _KIND, default=None, annotation=Optional[one.type])
                for one in pipeline_parameters()
            ),
            inspect.Parameter("skip_if_unchanged", _KIND, default=False, annotation=bool),
            inspect.Parameter("run_pages", _KIND, default="", annotation=str),
        ]
    )


def _docstring() -> str:
    """Return the docstring from which KFP takes the parameters' descriptions."""
    described = {"config": CONFIG_DESCRIPTION}
    described |= {one.name: one.description for one in pipeline_parameters()}
    described |= {"skip_if_unchanged": SKIP_DESCRIPTION, "run_pages": PAGES_DESCRIPTION}
    lines = [f"    {name}: {text}" for name, text in described.items()]
    return "\n".join(["Fine-tune and evaluate.", "", "Args:", *lines])


class _Steps:
    """The tasks of the six steps, each with the environment's settings for its kind."""

    def __init__(self, environment: Environment | None, cache: bool) -> None:
        self._environment = environment
        self._cache = cache

    def add(self, settings: Any, prepare_partitions: int, drawn_at_once: int | None) -> None:
        """Add all tasks; ``settings`` are the outputs of configure."""
        if prepare_partitions == 1:
            dataset = self._prepared(settings)
        else:
            dataset = self._prepared_in_partitions(settings, prepare_partitions, drawn_at_once)

        base_digest = settings["base_digest"]
        trained = components.train(config=settings["train"], base_digest=base_digest, dataset=dataset)
        keep_checkpoints(self._step(trained, "gpu"), self._environment)
        adapter = trained.outputs["adapter"]

        evaluated = components.evaluate(
            config=settings["evaluate"],
            base_digest=base_digest,
            champion=settings["champion"],
            dataset=dataset,
            adapter=adapter,
        )
        self._step(evaluated, "gpu")

        evaluation = evaluated.outputs["evaluation"]
        judged = components.gate(config=settings["gate"], evaluation=evaluation)
        self._step(judged, "control").set_caching_options(False)

        # If the gate does not promote, the run ends here as a success.
        with dsl.If(judged.outputs["Output"] == "promoted", name="promoted"):
            exported = components.export(
                config=settings["export"],
                dataset=dataset,
                adapter=adapter,
                evaluation=evaluation,
                verdict=judged.outputs["verdict"],
            )
            self._step(exported, "export").set_caching_options(False)

        with dsl.If(settings["benchmark_decision"] == RUN, name="benchmark-is-wanted"):
            # After train: two trainings must not share one device.
            benchmarked = components.benchmark(config=settings["benchmark"], base_digest=base_digest, dataset=dataset)
            self._step(benchmarked.after(trained), "gpu")

    def _prepared(self, settings: Any) -> Any:
        """Add the one task that prepares the dataset; return its dataset."""
        prepared = components.prepare(config=settings["prepare"], source_digest=settings["source_digest"])
        return self._step(prepared, "prepare").outputs["dataset"]

    def _prepared_in_partitions(self, settings: Any, partitions: int, at_once: int | None) -> Any:
        """Add the tasks that select documents, draw them in a loop, and merge the pages; return the merged dataset."""
        digest = settings["source_digest"]
        selected = components.select_documents(config=settings["prepare"], source_digest=digest)
        selection = self._step(selected, "prepare").outputs["selection"]

        with dsl.ParallelFor(list(range(partitions)), name="draw-partitions", parallelism=at_once) as partition:
            drawn = components.draw_pages(partition=partition, partitions=partitions, selection=selection)
            self._step(drawn, "prepare")

        pages = dsl.Collected(drawn.outputs["pages"])
        assembled = components.assemble_dataset(source_digest=digest, selection=selection, pages=pages)
        return self._step(assembled, "prepare").outputs["dataset"]

    def _step(self, task: Any, kind: Kind) -> Any:
        """Describe a task that KFP retries when it fails."""
        retry(task, self._environment)
        return self.described(task, kind)

    def described(self, task: Any, kind: Kind) -> Any:
        """Give a task its title and the environment's settings for its kind."""
        apply_settings(task, kind, self._environment)
        if not self._cache:
            task.set_caching_options(False)
        return task.set_display_name(TASK_TITLES[task.name])
