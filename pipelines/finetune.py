# ruff: noqa: UP045 (KFP reads Optional[X], not X | None)
"""The pipeline: configure, prepare (in one task, or in partitions), train, evaluate and benchmark, gate, export."""

from typing import Any, Optional

from kfp import dsl, kubernetes

from pipelines import components

# The label that KFP puts on each pod; a cached input would give a later run the id of an earlier one.
_RUN_ID_LABEL = "metadata.labels['pipeline/runid']"


def finetune_pipeline(prepare_partitions: int = 1, drawn_at_once: int | None = None) -> Any:
    """Return the pipeline.

    Whether the pages are drawn in partitions is settled here and not while it runs: with 1 partition the loop's three
    tasks would cost two more processes (or pods), and KFP 2.17's local runner cannot join two branches' artifacts.

    Args:
        prepare_partitions: 1: one task prepares the dataset; more: that many tasks draw its pages, and one merges them
            to the same bytes.
        drawn_at_once: partitions that are drawn at the same time; None: as many as the cluster has room for.
    """

    @dsl.pipeline(
        name="deepsynth-finetune",
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
        """
        given = locals()
        # The inputs of configure are the parameters above, by name.
        configured = components.configure(**{name: given[name] for name in components.configure.component_spec.inputs})
        # Never cached: the source's content may have changed under the same name.
        _described(configured, "Check the configuration").set_caching_options(False)
        _add_steps(configured.outputs, prepare_partitions, drawn_at_once)

    return finetune


def _add_steps(settings: Any, prepare_partitions: int, drawn_at_once: int | None) -> None:
    if prepare_partitions == 1:
        dataset = _prepared(settings)
    else:
        dataset = _prepared_in_partitions(settings, prepare_partitions, drawn_at_once)

    trained = components.train(config=settings["train"], dataset=dataset)
    _described(trained, "Train the adapter")
    adapter = trained.outputs["adapter"]

    evaluated = components.evaluate(
        config=settings["evaluate"], champion=settings["champion"], dataset=dataset, adapter=adapter
    )
    _described(evaluated, "Evaluate base and adapter")

    # After train, so that two trainings do not share one device.
    benchmarked = components.benchmark(config=settings["benchmark"], dataset=dataset).after(trained)
    _described(benchmarked, "Benchmark the trainers")

    evaluation = evaluated.outputs["evaluation"]
    judged = components.gate(config=settings["gate"], evaluation=evaluation)
    _described(judged, "Decide on the promotion").set_caching_options(False)

    # Where the gate says no, the run ends here, as a success.
    with dsl.If(judged.outputs["Output"] == "promoted", name="promoted"):
        exported = components.export(
            config=settings["export"],
            dataset=dataset,
            adapter=adapter,
            evaluation=evaluation,
            verdict=judged.outputs["verdict"],
        )
        _described(exported, "Export the package").set_caching_options(False)


def _prepared(settings: Any) -> Any:
    """Add the one task that prepares the dataset; return its dataset."""
    prepared = components.prepare(config=settings["prepare"], source_digest=settings["source_digest"])
    return _described(prepared, "Prepare the dataset").outputs["dataset"]


def _prepared_in_partitions(settings: Any, partitions: int, at_once: int | None) -> Any:
    """Add the tasks that select documents, draw them in a loop, and merge the pages; return the merged dataset."""
    digest = settings["source_digest"]
    selected = components.select_documents(config=settings["prepare"], source_digest=digest)
    selection = _described(selected, "Select the documents").outputs["selection"]

    with dsl.ParallelFor(list(range(partitions)), name="draw-partitions", parallelism=at_once) as partition:
        drawn = components.draw_pages(partition=partition, partitions=partitions, selection=selection)
        _described(drawn, "Draw one partition's pages")

    pages = dsl.Collected(drawn.outputs["pages"])
    assembled = components.assemble_dataset(source_digest=digest, selection=selection, pages=pages)
    return _described(assembled, "Assemble the dataset").outputs["dataset"]


def _described(task: Any, name: str) -> Any:
    """Give a task its display name, and its step the id of the pipeline run."""
    kubernetes.use_field_path_as_env(task, env_name="KFP_RUN_ID", field_path=_RUN_ID_LABEL)
    return task.set_display_name(name)
