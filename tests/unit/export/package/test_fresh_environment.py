"""The package runs in an environment with only the packages of its requirements.txt, installed without an index."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.export.step import run
from components.shared.errors import UserError
from tests.fixtures.export_fixture import export_config, make_sources


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def test_requirements_that_cannot_be_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_sources(tmp_path)
    (tmp_path / "wheels").mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    with pytest.raises(UserError, match=r"requirements.txt: pip cannot install .*No matching distribution"):
        run(export_config(made, tmp_path / "out", verify=True, fresh_environment=True))
    assert not (tmp_path / "out").exists()


def test_an_environment_without_verifying_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="fresh_environment needs verify"):
        export_config(tmp_path, tmp_path / "out", fresh_environment=True)


@pytest.mark.slow
def test_the_package_runs_in_an_environment_from_a_folder_of_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_sources(tmp_path)
    bare = run(export_config(made, tmp_path / "bare"))
    with zipfile.ZipFile(bare.archive) as archive:
        (tmp_path / "requirements.txt").write_bytes(archive.read("reader/requirements.txt"))
    wheels = ["--quiet", "--requirement", str(tmp_path / "requirements.txt"), "--dest", str(tmp_path / "wheels")]
    subprocess.run([sys.executable, "-m", "pip", "download", *wheels], check=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    result = run(export_config(made, tmp_path / "out", verify=True, fresh_environment=True))
    assert result.lineage["verification"]["environment"] == "requirements.txt"
    assert result.lineage["verification"]["text"]
