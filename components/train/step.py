"""The train step: choose the backend, load, train, write the adapter and the measurements."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from components.shared.artifacts.output_folder import finished_folder, scratch_folder
from components.shared.artifacts.training_record import BackendName, BaseIdentity, TrainingRecord
from components.shared.errors import first_line
from components.shared.telemetry.tracing import span
from components.shared.tracking import headline
from components.shared.tracking.step_run import TRACKING_OFF, TrackedRun, step_run
from components.shared.versions import software_versions
from components.train.backends.choice import choose_backend
from components.train.backends.protocol import TrainableModel
from components.train.batches.batch_plan import configured_plan
from components.train.config import TrainConfig
from components.train.processes.termination import EXIT_CODE, handled_termination
from components.train.processes.torchrun import one_of_several, started_by_torchrun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The folder of the adapter (or model), and the content of its ``training.json``."""

    folder: Path
    training: TrainingRecord


def run(config: TrainConfig, halvings: Sequence[dict[str, int]] = ()) -> TrainResult:
    """Train on ``config.dataset_dir`` and write ``config.output_dir``; with several GPUs, start one process per GPU.

    Under torchrun this is one of its processes, and only the first process writes. ``halvings`` are those of earlier
    attempts of its processes, which ran out of memory, see ``BatchPlan``.

    Raises:
        UserError: the dataset, the model or a setting is not usable on this machine, or loss or weights became nan.
        ChildProcessError: with ``num_gpus``, a process failed for another reason.
    """
    if config.num_gpus > 1 and not started_by_torchrun():
        from components.train.processes.launch import run_in_processes

        run_in_processes(config)
        return TrainResult(config.output_dir, TrainingRecord.read(config.output_dir))
    with one_of_several(config.num_gpus):
        return _run(config, halvings)


def _run(config: TrainConfig, halvings: Sequence[dict[str, int]]) -> TrainResult:
    backend, reason = choose_backend(config)  # before any other import: Unsloth patches transformers
    import transformers

    from components.shared.datasets.shard_reader import ShardDataset
    from components.train.estimate.fitting_batch import plan_within_memory
    from components.train.loop.checkpoints import training_folder, training_identity
    from components.train.loop.measurements import check_trained_weights, peak_memory_of_processes, start_memory_peak
    from components.train.loop.memory_recovery import train_within_memory
    from components.train.processes import distributed

    distributed.join()
    first, processes = distributed.is_first(), distributed.process_count()
    if not first:
        transformers.utils.logging.disable_progress_bar()
    log.info("backend %s: %s", backend.name, reason)
    dataset = ShardDataset(config.dataset_dir, "train")
    plan = plan_within_memory(config, dataset, backend.name) if first else configured_plan(config)
    plan = distributed.from_first(plan).after(halvings)
    identity = training_identity(config, backend.name, dataset.manifest.digest) | {"processes": processes}
    with (
        handled_termination() as termination,
        _tracked(config, first) as tracked,
        scratch_folder("deepsynth-checkpoints") as scratch,
        _by_the_first(lambda: training_folder(config, identity, scratch)) as checkpoints,
        _by_the_first(lambda: finished_folder(config.output_dir)) as folder,
    ):
        tracked.log_dataset(dataset.manifest.digest, dataset.manifest.sources_name(), "training")
        tracked.set_tags({"backend": backend.name, "backend_reason": reason})
        if plan.fitted:
            tracked.log_parameters({f"fitted_{name}": value for name, value in plan.settings.items()})
        transformers.set_seed(config.seed)
        with span("load the model"):
            trainable = backend.load(config)
        base = _base(config) if first else None
        loading = peak_memory_of_processes()
        start_memory_peak()
        measurements = train_within_memory(
            trainable, dataset, config, checkpoints, tracked, identity, termination, plan
        )
        if distributed.in_any_process(termination.requested):
            _leave(config, checkpoints)
        check_trained_weights(trainable.model, len(measurements.step_seconds))
        training = _record(
            config, backend.name, reason, base, dataset.manifest.digest, trainable, loading, measurements
        )
        # Early stopping decides after the checkpoint is written: a checkpoint used as the result may have no loss yet.
        final_loss = {"final_loss": measurements.losses[-1]} if measurements.losses else {}
        if first:
            with span("save the adapter"):
                _save(trainable, config, folder)
            written = training.write(folder)
            tracked.log_metrics({"steps": training.steps, **final_loss})
            tracked.summarize(headline.of_training(training))
            tracked.log_artifact(written)
    distributed.part()
    loss = "".join(f", loss {value:.4f}" for value in final_loss.values())
    log.info("%s is ready: %d steps%s", config.output_dir, training.steps, loss)
    return TrainResult(config.output_dir, training)


def _record(
    config: TrainConfig,
    backend: BackendName,
    reason: str,
    base: BaseIdentity | None,
    dataset_digest: str,
    trainable: TrainableModel,
    loading: list[dict[str, int | None]],
    measurements: Any,
) -> TrainingRecord:
    """Return the content of ``training.json``; ``loading`` is the peak memory before the first step."""
    from components.train.loop.measurements import peak_memory_of_processes
    from components.train.processes.distributed import process_count

    return TrainingRecord(
        backend=backend,
        backend_reason=reason,
        base_model=config.base_model,
        base=base,
        dataset_digest=dataset_digest,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        processes=process_count(),
        steps=len(measurements.step_seconds),
        **_model_facts(trainable),
        **_memory_facts(loading, peak_memory_of_processes()),
        **asdict(measurements),
        versions=software_versions(),
    )


def _base(config: TrainConfig) -> BaseIdentity | None:
    """Return the base's identity; None if the hub's cache lacks it by this name (Unsloth may load it by another)."""
    from components.shared.models.base_identity import base_identity
    from components.shared.models.base_models import base_model_location

    try:
        return base_identity(config.base_model, base_model_location(config.base_model), config.revision)
    except OSError as error:
        log.warning("the base's digests are not known, later steps compare its name alone: %s", first_line(error))
        return None


def _tracked(config: TrainConfig, first: bool) -> AbstractContextManager[TrackedRun]:
    if not first:
        return nullcontext(TrackedRun(TRACKING_OFF))
    return step_run("train", config.model_dump(mode="json", exclude={"dataset_dir", "output_dir"}))


@contextmanager
def _by_the_first(folder: Callable[[], AbstractContextManager[Path]]) -> Iterator[Path]:
    """Yield in every process the folder that the first process creates; only the first one keeps or removes it."""
    from components.train.processes import distributed

    with folder() if distributed.is_first() else nullcontext(Path()) as made:
        yield distributed.from_first(made)


def _model_facts(trainable: TrainableModel) -> dict[str, Any]:
    import torch

    parameters = list(trainable.model.parameters())
    device = next(iter(parameters)).device
    return {
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "details": trainable.details,
    }


def _memory_facts(loading: list[dict[str, int | None]], training: list[dict[str, int | None]]) -> dict[str, Any]:
    """Return the highest peaks over all processes; with several processes, also each one's peak while training."""
    from components.train.loop.measurements import highest_peak

    highest = {"peak_memory_bytes": highest_peak(training), "loading_peak_memory_bytes": highest_peak(loading)}
    return highest | ({"peak_memory_bytes_of_processes": training} if len(training) > 1 else {})


def _save(trainable: TrainableModel, config: TrainConfig, folder: Path) -> None:
    model = trainable.model
    if config.peft == "none":
        model = model.bfloat16()
        model.config.use_cache = True
    for adapter in getattr(model, "peft_config", {}).values():
        # PEFT keeps names in a set and writes them in its order, which differs between processes (PYTHONHASHSEED).
        vars(adapter).update({name: sorted(value) for name, value in vars(adapter).items() if isinstance(value, set)})
    model.save_pretrained(str(folder))
    if trainable.start:
        from components.train.backends.loftq import subtract_start

        subtract_start(folder, trainable.start.values)
    trainable.processor.save_pretrained(folder)
    # PEFT writes a model card full of "[More Information Needed]"; the export step writes the real one.
    (folder / "README.md").unlink(missing_ok=True)


def _leave(config: TrainConfig, checkpoints: Path) -> NoReturn:
    from components.train.loop.checkpoints import newest_whole_checkpoint
    from components.train.processes import distributed

    if distributed.is_first():
        kept = newest_whole_checkpoint(checkpoints) if config.checkpoint_dir else None
        rest = (
            f"{kept} is kept, the same settings go on from it" if kept else "nothing is kept without a checkpoint_dir"
        )
        print(f"terminated: {rest}", file=sys.stderr, flush=True)
    distributed.wait_for_all()  # torchrun ends the remaining processes as soon as one exits with an error
    raise SystemExit(EXIT_CODE)
