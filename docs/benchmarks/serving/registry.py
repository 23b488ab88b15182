"""An MLflow server of its own, and a registered model with two versions that read differently."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from components.shared.tracking.model_registry import RegisteredAdapter, register, set_alias


def mlflow_server(folder: Path, port: int) -> subprocess.Popen:
    """Start a server with its store in ``folder``, in a process group of its own; return when it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    variables = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 300
    while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "server.log").read_text())
        time.sleep(0.1)
    return process


def kill(server: subprocess.Popen) -> None:
    """Kill -9 the server with its workers."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def registered(folder: Path, uri: str) -> list[RegisteredAdapter]:
    """Register two adapters of the bundled base as ``reader``; the first gets the alias ``champion``."""
    import torch
    from peft import LoraConfig, get_peft_model

    from components.shared.models.model_families import family_of
    from components.shared.models.model_loading import load_model

    folder.mkdir(exist_ok=True)
    versions = []
    before = Path.cwd()
    os.chdir(folder)  # a SQLite store puts the files into the working directory
    try:
        for seed in (1, 2):
            torch.manual_seed(seed)
            model: Any = load_model("tiny-base", dtype=torch.float32, device=torch.device("cpu")).eval()
            modules = family_of(model.config.model_type).language_modules
            adapted = get_peft_model(model, LoraConfig(r=4, target_modules=modules))
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.2)
            adapted.save_pretrained(folder / f"adapter-{seed}")
            versions.append(register(folder / f"adapter-{seed}", "reader", {}, uri=uri))
    finally:
        os.chdir(before)
    set_alias(versions[0], "champion", uri=uri)
    return versions
