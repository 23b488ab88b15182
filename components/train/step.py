"""The train step: choose the backend, load, train, write the adapter and what was measured."""

import json
import logging
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from components.shared.lineage import software_versions
from components.shared.output_folder import finished_folder
from components.shared.tracking import step_run
from components.train.backends.protocol import TrainableModel, choose_backend
from components.train.config import TrainConfig
from components.train.termination import EXIT_CODE, handled_termination

log = logging.getLogger(__name__)

TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class TrainResult:
    """Where the adapter (or model) lies, and the content of its ``training.json``."""

    folder: Path
    training: dict[str, Any]


def run(config: TrainConfig) -> TrainResult:
    """Train on ``config.dataset_dir`` and write ``config.output_dir``.

    Raises:
        UserError: the dataset, the model or a setting is not usable on this machine, or the loss became nan.
    """
    backend, reason = choose_backend(config)  # before any other import: Unsloth patches transformers
    import transformers

    from components.shared.shard_reader import ShardDataset
    from components.train.checkpoints import training_folder, training_identity
    from components.train.estimate_preflight import check_free_memory
    from components.train.measurements import peak_memory_bytes, start_memory_peak
    from components.train.training import train

    log.info("backend %s: %s", backend.name, reason)
    dataset = ShardDataset(config.dataset_dir, "train")
    check_free_memory(config, dataset, backend.name)
    identity = training_identity(config, backend.name, dataset.manifest.digest)
    with (
        handled_termination() as termination,
        step_run("train", config.model_dump(mode="json", exclude={"dataset_dir", "output_dir"})) as tracked,
        tempfile.TemporaryDirectory() as scratch,
        training_folder(config, identity, Path(scratch)) as checkpoints,
        finished_folder(config.output_dir) as folder,
    ):
        tracked.log_dataset(dataset.manifest.digest, str(dataset.manifest.config.get("source")), "training")
        tracked.set_tags({"backend": backend.name, "backend_reason": reason})
        transformers.set_seed(config.seed)
        trainable = backend.load(config)
        loading_memory = peak_memory_bytes()
        start_memory_peak()
        measurements = train(trainable, dataset, config, checkpoints, tracked, identity, termination)
        if termination.requested:
            _leave(config, checkpoints)
        training = {
            "backend": backend.name,
            "backend_reason": reason,
            "base_model": config.base_model,
            "dataset_digest": dataset.manifest.digest,
            "config": config.model_dump(mode="json"),
            "seed": config.seed,
            "steps": len(measurements.step_seconds),
            **_model_facts(trainable),
            "peak_memory_bytes": peak_memory_bytes(),
            "loading_peak_memory_bytes": loading_memory,
            **asdict(measurements),
            "versions": software_versions(),
        }
        _save(trainable, config, folder)
        (folder / TRAINING_FILE).write_text(json.dumps(training, indent=1), encoding="utf-8")
        tracked.log_metrics({"final_loss": measurements.losses[-1], "steps": training["steps"]})
        tracked.log_artifact(folder / TRAINING_FILE)
    log.info("%s is ready: %d steps, loss %.4f", config.output_dir, training["steps"], measurements.losses[-1])
    return TrainResult(config.output_dir, training)


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


def _save(trainable: TrainableModel, config: TrainConfig, folder: Path) -> None:
    model = trainable.model
    if config.peft == "none":
        model = model.bfloat16()
        model.config.use_cache = True
    model.save_pretrained(str(folder))
    if trainable.start:
        from components.train.backends.loftq import subtract_start

        subtract_start(folder, trainable.start.values)
    trainable.processor.save_pretrained(folder)
    # PEFT writes a model card of its own, filled with "[More Information Needed]"; the export step writes a real one.
    (folder / "README.md").unlink(missing_ok=True)


def _leave(config: TrainConfig, checkpoints: Path) -> NoReturn:
    from components.train.checkpoints import newest_whole_checkpoint

    kept = newest_whole_checkpoint(checkpoints) if config.checkpoint_dir else None
    rest = f"{kept} is kept, the same settings go on from it" if kept else "nothing is kept without a checkpoint_dir"
    print(f"terminated: {rest}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_CODE)
