"""The digests of the images that others build; the program that renews them, with a stand-in for crane and skopeo."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = ("images/Dockerfile", "images/pin_images.py", "manifests/overlays/local/storage/kustomization.yaml")
NEW = "sha256:" + "ab" * 32


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def pinned(tree: Path, program: str, says: str, code: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run pin_images.py where only ``program`` is installed; return also the arguments that it was given."""
    programs = tree / "programs"
    programs.mkdir(exist_ok=True)
    stand_in = programs / program
    stand_in.write_text(f"#!/bin/sh\necho \"$@\" >> {tree}/asked\nprintf '%s\\n' '{says}'\nexit {code}\n")
    stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:/bin"}
    command = [sys.executable, str(tree / "images" / "pin_images.py")]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    return answer, (tree / "asked").read_text().splitlines()


def test_the_base_and_the_stores_have_digests() -> None:
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / FILES[0]).read_text(), re.M)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    stores = (ROOT / FILES[2]).read_text()
    assert len(re.findall(r"^    digest: sha256:[0-9a-f]{64}$", stores, re.M)) == stores.count("- name: ") == 2


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("crane", "digest {}"),
        ("skopeo", "inspect --format {{{{.Digest}}}} docker://{}"),
    ],
)
def test_digests_are_renewed_in_both_files(tree: Path, program: str, arguments: str) -> None:
    answer, asked = pinned(tree, program, NEW)
    assert answer.returncode == 0, answer.stderr
    (base,) = re.findall(r"^ARG BASE_IMAGE=([^@]+)@", (ROOT / FILES[0]).read_text(), re.M)
    names = [base, *re.findall(r"^(\S+): sha256:", answer.stdout, re.M)[1:]]
    assert names[1].startswith("postgres:17.") and names[2].startswith("chrislusf/seaweedfs:")
    assert asked == [arguments.format(name) for name in names]
    assert f"@{NEW}\n" in (tree / FILES[0]).read_text()
    assert (tree / FILES[2]).read_text().count(f"digest: {NEW}") == 2
    again, _ = pinned(tree, program, NEW)
    assert again.stdout.count("unchanged") == 3


def test_a_registry_that_does_not_answer_changes_nothing(tree: Path) -> None:
    answer, _ = pinned(tree, "crane", "unauthorized", code=1)
    assert answer.returncode == 1 and "crane gives no digest: unauthorized" in answer.stderr
    assert all((tree / file).read_text() == (ROOT / file).read_text() for file in FILES)
