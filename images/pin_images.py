"""Write today's digests of the images that others build, asking their registries: ``python images/pin_images.py``.

They are the Dockerfile's base and the stores of manifests/overlays/local. A digest names the same bytes for ever; a tag
moves when its image is built again with security fixes. Afterwards: look at the difference, build, test, commit.
crane, skopeo or docker buildx asks the registry, whichever is there.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = Path("images/Dockerfile")
STORES = Path("manifests/overlays/local/storage/kustomization.yaml")
_BASE = re.compile(r"(?<=^ARG BASE_IMAGE=)(?P<image>[^@\s]+)@(?P<digest>sha256:[0-9a-f]{64})$", re.M)
_STORE = re.compile(
    r'- name: (?P<name>\S+)\n +newTag: "(?P<tag>[^"]+)"[^\n]*\n +digest: (?P<digest>sha256:[0-9a-f]{64})$', re.M
)
_INSPECTORS = {
    "crane": ["crane", "digest"],
    "skopeo": ["skopeo", "inspect", "--format", "{{.Digest}}"],
    "docker": ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}"],
}


def digest_of(image: str) -> str:
    """Return the digest of an image's index, for all processor types, as its registry has it now.

    Raises:
        SystemExit: no program that asks registries is installed, or the registry does not answer.
    """
    program = next((name for name in _INSPECTORS if shutil.which(name)), None)
    if program is None:
        sys.exit(f"error: {image}: no program asks registries here; install crane, skopeo or docker with buildx")
    name = f"docker://{image}" if program == "skopeo" else image
    answer = subprocess.run([*_INSPECTORS[program], name], capture_output=True, text=True)
    digest = answer.stdout.strip()
    if answer.returncode or not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        said = " ".join((answer.stderr or answer.stdout).split())[:300]
        sys.exit(f"error: {image}: {program} gives no digest: {said}")
    return digest


def renewed(text: str, pattern: re.Pattern[str], image: Callable[[re.Match[str]], str]) -> str:
    """Return ``text`` with the registry's digest for each image that ``pattern`` finds; print each."""

    def with_digest(match: re.Match[str]) -> str:
        name, old = image(match), match["digest"]
        new = digest_of(name)
        print(f"{name}: {'unchanged' if new == old else f'{old} -> {new}'}")
        return match[0].replace(old, new)

    return pattern.sub(with_digest, text)


def main() -> None:
    found = [
        (DOCKERFILE, _BASE, lambda match: match["image"]),
        (STORES, _STORE, lambda match: f"{match['name']}:{match['tag']}"),
    ]
    texts = {path: renewed((ROOT / path).read_text(encoding="utf-8"), *how) for path, *how in found}
    for path, text in texts.items():
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
