"""Print what pip installs into an image, from pyproject.toml: ``python images/requirements.py cpu|cuda|mlflow``.

Steps run without most of kfp: ``kfp.dsl``'s executor wants nothing that kfp brings (Kubernetes' and Google's clients,
protobuf), so the images get kfp itself with ``--no-deps``, and kfp-kubernetes not at all.
"""

import re
import sys
import tomllib
from pathlib import Path

_ONLY_WHERE_PIPELINES_ARE_COMPILED = ("kfp", "kfp-kubernetes", "kubernetes")
_EXTRA = {"cpu": None, "cuda": "gpu"}


def requirements(image: str) -> list[str]:
    """Return the requirements of ``image``: cpu, cuda or mlflow.

    Raises:
        KeyError: there is no such image.
    """
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    if image == "mlflow":
        server = [line for line in project["dependencies"] if _name(line) == "mlflow"]
        return [*server, *extras["tracking-server"]]
    extra = _EXTRA[image]
    needed = [line for line in project["dependencies"] if _name(line) not in _ONLY_WHERE_PIPELINES_ARE_COMPILED]
    return [*needed, *(extras[extra] if extra else [])]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
