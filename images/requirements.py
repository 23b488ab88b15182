"""Print what pip or uv installs, with versions and hashes: ``python images/requirements.py LIST``.

A list, images/packages/LIST.txt, has the names of all packages of an image or an environment, dependencies included;
constraints.txt has the version of each and the hashes of its files. Both are written by ``make lock`` (images/lock.py).
The output is meant for ``install --no-deps --require-hashes``: nothing is resolved, and a file with other bytes, from
whatever index, is refused.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LISTS = ROOT / "images" / "packages"


def pins(text: str) -> dict[str, str]:
    """Return a requirements file's entries by normalized name: the version, and indented lines with its hashes."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = {}
    for line in joined.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==", line):
            found[normalized(match[1])] = " ".join(line.split())
    return found


def normalized(name: str) -> str:
    """Return a package's name as PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> list[str]:
    """Return the lines of the list ``name``, each with version, hashes and environment marker.

    Raises:
        SystemExit: there is no such list, or constraints.txt lacks one of its packages or its hashes.
    """
    path = LISTS / f"{name}.txt"
    if not path.is_file():
        sys.exit(f"error: no list {name}; there are: {', '.join(sorted(one.stem for one in LISTS.glob('*.txt')))}")
    versions = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        package, _, marker = (part.strip() for part in line.partition("#")[0].partition(";"))
        if not package:
            continue
        pin, _, hashes = versions.get(normalized(package), "").partition(" ; ")[0].partition(" ")
        hashes = " ".join(re.findall(r"--hash=sha256:[0-9a-f]{64}", versions.get(normalized(package), "")))
        if not pin or not hashes:
            sys.exit(f"error: constraints.txt: {package} has no version with hashes; make lock writes them")
        lines.append(f"{pin}{f' ; {marker}' if marker else ''} {hashes}")
    return lines


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
