# ruff: noqa: UP006, UP035 (KFP reads List[X], not list[X])
"""The KFP components. KFP ships only the body of each function, so it imports the installed package and calls it."""

import os
from typing import List

from kfp import dsl

from components.shared.versions import tool_version
from pipelines.definition.configure_component import configure_component

# KFP's cache keys ignore the code inside the image, so the tag must not move. KFP's subprocess runner wants "python" in
# the name.
IMAGE = os.environ.get("DEEPSYNTH_IMAGE") or f"deepsynth-pipelines-python:{tool_version().replace('+', '-')}"
# For the steps that can use a GPU.
GPU_IMAGE = os.environ.get("DEEPSYNTH_GPU_IMAGE") or IMAGE


configure = configure_component(IMAGE)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(config: str, source_digest: str, dataset: dsl.Output[dsl.Dataset], preview: dsl.Output[dsl.HTML]) -> None:
    """Draw the source's documents as labelled pages; ``source_digest`` makes the cache notice changed content."""
    from pipelines.task_side.artifact_metadata import describe_dataset
    from pipelines.task_side.task_entry import run_task
    from pipelines.task_side.tracked_artifacts import name_run

    run_task("prepare", config, output_dir=dataset.path)
    describe_dataset(dataset, source_digest, preview)
    name_run(dataset, "prepare")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def select_documents(config: str, source_digest: str, selection: dsl.Output[dsl.Artifact]) -> None:
    """Read, clean and split the source's documents; other tasks draw them."""
    from pipelines.task_side.artifact_metadata import describe_selection
    from pipelines.task_side.partition_tasks import select_documents

    select_documents(config, selection.path)
    describe_selection(selection, source_digest)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def draw_pages(
    partition: int, partitions: int, selection: dsl.Input[dsl.Artifact], pages: dsl.Output[dsl.Artifact]
) -> None:
    """Draw one part of the selected documents."""
    from pipelines.task_side.artifact_metadata import describe_partition
    from pipelines.task_side.partition_tasks import draw_pages

    draw_pages(selection.path, pages.path, partition, partitions)
    describe_partition(pages, partition, partitions)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def assemble_dataset(
    source_digest: str,
    selection: dsl.Input[dsl.Artifact],
    pages: dsl.Input[List[dsl.Artifact]],
    dataset: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.HTML],
) -> None:
    """Merge all parts' pages into the dataset that one process would have made."""
    from pipelines.task_side.artifact_metadata import describe_dataset
    from pipelines.task_side.partition_tasks import assemble_dataset
    from pipelines.task_side.tracked_artifacts import name_run

    assemble_dataset(selection.path, pages, dataset.path)
    describe_dataset(dataset, source_digest, preview)
    name_run(dataset, "prepare")


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def train(
    config: str,
    base_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Fine-tune the base model on the dataset's training pages; ``base_digest`` makes the cache notice another base."""
    from pipelines.task_side.artifact_metadata import describe_adapter
    from pipelines.task_side.persistent_folders import kept_checkpoints
    from pipelines.task_side.task_entry import run_task
    from pipelines.task_side.tracked_artifacts import name_run, note_cached_inputs

    note_cached_inputs("train", prepare=dataset)
    with kept_checkpoints(config) as settings:
        run_task("train", settings, dataset_dir=dataset.path, output_dir=adapter.path)
    describe_adapter(adapter, metrics)
    name_run(adapter, "train", prepare=dataset)


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def evaluate(
    config: str,
    base_digest: str,
    champion: str,
    dataset: dsl.Input[dsl.Dataset],
    adapter: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Transcribe the held-out pages with base, adapter and champion, and score all.

    ``base_digest`` and ``champion`` make the cache notice another base and another champion.
    """
    from pipelines.task_side.artifact_metadata import describe_evaluation
    from pipelines.task_side.task_entry import run_task
    from pipelines.task_side.tracked_artifacts import name_run, note_cached_inputs

    note_cached_inputs("evaluate", prepare=dataset, train=adapter)
    run_task("evaluate", config, dataset_dir=dataset.path, adapter_dir=adapter.path, output_dir=evaluation.path)
    describe_evaluation(evaluation, report, metrics)
    name_run(evaluation, "evaluate", prepare=dataset, train=adapter)


@dsl.component(base_image=GPU_IMAGE, install_kfp_package=False)
def benchmark(
    config: str,
    base_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Compare the trainers on the same data; ``base_digest`` makes the cache notice another base."""
    from pipelines.task_side.artifact_metadata import describe_benchmark
    from pipelines.task_side.task_entry import run_task
    from pipelines.task_side.tracked_artifacts import name_run

    run_task("benchmark", config, dataset_dir=dataset.path, output_dir=comparison.path)
    describe_benchmark(comparison, report)
    name_run(comparison, "benchmark", prepare=dataset)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    config: str,
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
) -> str:
    """Decide from the evaluation: ``promoted`` or ``not promoted``.

    The output has no name, because a condition in KFP 2.17's local runner does not find named outputs.
    """
    from pipelines.task_side.artifact_metadata import describe_verdict
    from pipelines.task_side.task_entry import run_task
    from pipelines.task_side.tracked_artifacts import name_run, note_cached_inputs

    note_cached_inputs("gate", evaluate=evaluation)
    result = run_task("gate", config, evaluation_dir=evaluation.path, output_dir=verdict.path)
    describe_verdict(verdict, summary)
    name_run(verdict, "gate", evaluate=evaluation)
    return str(result.verdict.decision)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def export(
    config: str,
    dataset: dsl.Input[dsl.Dataset],
    adapter: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    package: dsl.Output[dsl.Artifact],
    model_card: dsl.Output[dsl.Markdown],
) -> None:
    """Pack the adapter with its model card, inference script and lineage."""
    from pipelines.task_side.artifact_metadata import describe_package
    from pipelines.task_side.task_entry import run_task
    from pipelines.task_side.tracked_artifacts import name_run

    run_task(
        "export",
        config,
        dataset_dir=dataset.path,
        adapter_dir=adapter.path,
        evaluation_dir=evaluation.path,
        gate_dir=verdict.path,
        output_dir=package.path,
    )
    describe_package(package, model_card)
    name_run(package, "export", train=adapter, evaluate=evaluation)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def close_run(status: dsl.PipelineTaskFinalStatus) -> None:
    """Tell MLflow how the pipeline ended; KFP runs this last, after a failure too."""
    from pipelines.task_side.closing_task import close_run

    close_run(status.state)
