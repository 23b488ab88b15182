"""The train step: choose the backend, load, train, write the adapter and what was measured."""

import json
import logging
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import UserError
from components.shared.lineage import software_versions
from components.shared.output_folder import finished_folder
from components.shared.tracking import step_run
from components.train.backends.protocol import TrainableModel, choose_backend
from components.train.config import TrainConfig

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
    from components.train.measurements import peak_memory_bytes, start_memory_peak
    from components.train.training import train

    log.info("backend %s: %s", backend.name, reason)
    dataset = ShardDataset(config.dataset_dir, "train")
    with (
        step_run("train", config.model_dump(mode="json", exclude={"dataset_dir", "output_dir"})) as tracked,
        finished_folder(config.output_dir) as folder,
        tempfile.TemporaryDirectory() as scratch,
    ):
        tracked.log_dataset(dataset.manifest.digest, str(dataset.manifest.config.get("source")), "training")
        tracked.set_tags({"backend": backend.name, "backend_reason": reason})
        transformers.set_seed(config.seed)
        trainable = backend.load(config)
        loading_memory = peak_memory_bytes()
        start_memory_peak()
        measurements = train(trainable, dataset, config, Path(scratch), tracked)
        _check_losses(measurements.losses)
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
    trainable.processor.save_pretrained(folder)
    # PEFT writes a model card of its own, filled with "[More Information Needed]"; the export step writes a real one.
    (folder / "README.md").unlink(missing_ok=True)


def _check_losses(losses: list[float]) -> None:
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise UserError(
                f"the loss became {loss} at step {step}",
                where="learning_rate",
                mend="lower it, or raise warmup_ratio; nothing was written",
            )
