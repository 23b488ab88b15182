"""``deepsynth ui``: the page of the runs in MLflow's UI, and a browser that shows it."""

import os
import subprocess
import sys

from components.shared.tracking.experiment_view import runs_address
from components.shared.tracking.mlflow_connection import connect
from components.shared.tracking.step_run import DEFAULT_EXPERIMENT

_SECONDS_TO_START = 120
# The server replaces this process, so another one waits for it.
_OPENER = """
import socket, sys, time, webbrowser
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            webbrowser.open(address)
            break
    time.sleep(0.3)
"""


def runs_page(uri: str) -> str:
    """Return the address of the runs below that of MLflow's UI; empty where the store has no pipeline's runs."""
    found = connect(uri).get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT)
    return runs_address(found) if found else ""


def open_when_it_answers(address: str, port: int) -> None:
    """Open a browser at ``address`` once a server listens; do nothing without a desktop."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    command = [sys.executable, "-c", _OPENER, address, str(port), str(_SECONDS_TO_START)]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
