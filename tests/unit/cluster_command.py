"""``deepsynth`` in this process, as from a shell: what the tests of the commands for a cluster share."""

import inspect
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipelines.command_line import main

ENVIRONMENT = "registry: registry.example/team\ntag: 1.2.3-abc\nmlflow_tracking_uri: 'off'\n"


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


class Shell:
    """Runs commands in ``folder``; ``environment.yaml`` is there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        (folder / "environment.yaml").write_text(ENVIRONMENT)
        monkeypatch.chdir(folder)
        for name in os.environ:
            if name.startswith(("KFP", "KF_PIPELINES", "MLFLOW", "DEEPSYNTH")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(folder))
        # KFP asks for the whole stack, 40 times a pipeline, to name a caller. Finding the lines around each frame is
        # slow where many modules are loaded: with torch and transformers these tests took 76 s with them, 45 s without.
        monkeypatch.setattr(inspect, "stack", partial(inspect.stack, context=0))

    def __call__(self, *arguments: str) -> Answer:
        self._monkeypatch.setattr(sys, "argv", ["deepsynth", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = self._capsys.readouterr()
        return Answer(code, out, err)
