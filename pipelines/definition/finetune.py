# ruff: noqa: UP045 (KFP reads Optional[X], not X | None)
"""The pipeline: configure, prepare (in one task, or in partitions), train, evaluate and benchmark, gate, export."""

from typing import Any, Optional

from kfp import dsl

from pipelines.definition import tasks as components
from pipelines.definition.environment import PIPELINE_NAME, Environment
from pipelines.definition.kubernetes_settings import Kind, apply_settings, keep_checkpoints, pipeline_limits, retry
from pipelines.definition.task_titles import TASK_TITLES


def finetune_pipeline(
    prepare_partitions: int = 1, drawn_at_once: int | None = None, environment: Environment | None = None
) -> Any:
    """Return the pipeline.

    Whether the pages are drawn in partitions is settled here and not while it runs: with 1 partition the loop's three
    tasks would cost two more processes (or pods), and KFP 2.17's local runner cannot join two branches' artifacts.

    Args:
        prepare_partitions: 1: one task prepares the dataset; more: that many tasks draw its pages, and one merges them
            to the same bytes.
        drawn_at_once: partitions that are drawn at the same time; None: as many as the cluster has room for.
        environment: the cluster's images, resources, volumes and addresses; None: images by DEEPSYNTH_IMAGE and
            DEEPSYNTH_GPU_IMAGE, and no Kubernetes settings but the run's id.
    """
    steps = _Steps(environment)

    @dsl.pipeline(
        name=PIPELINE_NAME,
        pipeline_config=pipeline_limits(environment),
        description="Documents in; out come a fine-tuned adapter, its evaluation against the base, and a package.",
    )
    def finetune(
        config: str = "",
        source: Optional[str] = None,
        base_model: Optional[str] = None,
        seed: Optional[int] = None,
        max_documents: Optional[int] = None,
        learning_rate: Optional[float] = None,
        max_steps: Optional[int] = None,
        num_train_epochs: Optional[float] = None,
        per_device_train_batch_size: Optional[int] = None,
        r: Optional[int] = None,
        lora_alpha: Optional[int] = None,
        load_in_4bit: Optional[bool] = None,
        skip_if_unchanged: bool = False,
    ) -> None:
        """Fine-tune and evaluate.

        Args:
            config: YAML or JSON text with any of the settings; empty for the quickstart preset. The other
                parameters override it where they are given.
            source: where the documents come from.
            base_model: a model folder, a hub id or tiny-base.
            seed: of splits, looks, data order, adapter weights and bootstrap.
            max_documents: read at most this many documents.
            learning_rate: the schedule's highest learning rate.
            max_steps: optimizer steps; wins over num_train_epochs.
            num_train_epochs: passes over the training pages.
            per_device_train_batch_size: pages per device and step.
            r: rank of the adapter's matrices.
            lora_alpha: the adapter's output is scaled by lora_alpha / r.
            load_in_4bit: load the frozen weights in 4 bits.
            skip_if_unchanged: do nothing where the champion (evaluate.champion) was trained on the same documents.
        """
        given = locals()
        # The inputs of configure are the parameters above, by name. It stands outside of the exit handler: KFP 2.17's
        # backend cannot hand a parameter that was not given into a sub-pipeline. MLflow has no run yet if it fails.
        configured = components.configure(**{name: given[name] for name in components.configure.component_spec.inputs})
        # Never cached: the source's content may have changed under the same name.
        steps.described(configured, "control").set_caching_options(False)
        settings = configured.outputs

        closing = components.close_run()
        steps.described(closing, "control").set_caching_options(False)
        with (
            dsl.ExitHandler(closing, name="steps"),
            dsl.If(settings["decision"] == "train", name="data-is-new"),
        ):
            steps.add(settings, prepare_partitions, drawn_at_once)

    return finetune


class _Steps:
    """The tasks of the six steps, each with what the environment says about its kind."""

    def __init__(self, environment: Environment | None) -> None:
        self._environment = environment

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

        # After train, so that two trainings do not share one device.
        benchmarked = components.benchmark(config=settings["benchmark"], base_digest=base_digest, dataset=dataset)
        self._step(benchmarked.after(trained), "gpu")

        evaluation = evaluated.outputs["evaluation"]
        judged = components.gate(config=settings["gate"], evaluation=evaluation)
        self._step(judged, "control").set_caching_options(False)

        # Where the gate says no, the run ends here, as a success.
        with dsl.If(judged.outputs["Output"] == "promoted", name="promoted"):
            exported = components.export(
                config=settings["export"],
                dataset=dataset,
                adapter=adapter,
                evaluation=evaluation,
                verdict=judged.outputs["verdict"],
            )
            self._step(exported, "export").set_caching_options(False)

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
        """Describe a task that is tried again when it fails."""
        retry(task, self._environment)
        return self.described(task, kind)

    def described(self, task: Any, kind: Kind) -> Any:
        """Give a task its title, and what the environment says about its kind."""
        apply_settings(task, kind, self._environment)
        return task.set_display_name(TASK_TITLES[task.name])
