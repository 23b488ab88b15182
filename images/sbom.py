"""Write an image's software bill of materials: ``python images/sbom.py IMAGE FOLDER``, as ``make sbom`` does.

The image itself is asked, in a container without a network: its Python packages with their metadata, its Debian
packages from dpkg's own list. Two files: ``NAME_TAG.cdx.json`` (CycloneDX 1.6) and ``NAME_TAG.statement.json``, an
in-toto statement that binds it to the image's digest; images/attest.py signs that one.
"""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

PREDICATE = "https://cyclonedx.org/bom"
_OF_REGISTRY = "application/vnd.oci.image.index.v1+json"
_OF_ENGINE = "application/vnd.docker.container.image.v1+json"
# Runs inside the image, with its Python alone.
INVENTORY = r"""
import importlib.metadata, json, pathlib, platform, re
def license_of(about):
    text = about.get("License-Expression") or about.get("License") or ""
    named = [one for one in about.get_all("Classifier") or [] if one.startswith("License ::")]
    classifiers = [one.rpartition(" :: ")[2] for one in named]
    return text if text and len(text) < 80 and "\n" not in text else " AND ".join(classifiers)
python = {}
for one in importlib.metadata.distributions():
    python[one.name] = {"version": one.version, "license": license_of(one.metadata)}
status = pathlib.Path("/var/lib/dpkg/status")
debian = {}
for entry in status.read_text().split("\n\n") if status.exists() else []:
    field = dict(re.findall(r"^([A-Za-z-]+): (.*)$", entry, re.M))
    if field.get("Status", "").endswith(" installed"):
        debian[field["Package"]] = {"version": field["Version"], "architecture": field["Architecture"],
                                    "source": field.get("Source", field["Package"]).partition(" ")[0]}
release = pathlib.Path("/etc/os-release")
system = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', release.read_text(), re.M)) if release.exists() else {}
print(json.dumps({"python": python, "debian": debian, "system": system, "interpreter": platform.python_version()}))
"""


def bill_of_materials(image: str, digest: str, labels: dict[str, str], inventory: dict[str, Any]) -> Bom:
    """Return the bill of ``image``, whose components come from what ``INVENTORY`` printed in it."""
    licenses = LicenseFactory()
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{image}@{digest}"))
    root = Component(
        name=image.rpartition(":")[0], version=image.rpartition(":")[2], type=ComponentType.CONTAINER, bom_ref=image
    )
    root.properties.update(Property(name=name, value=value) for name, value in labels.items() if value)
    root.properties.add(Property(name="digest", value=digest))
    bom.metadata.component = root
    found = [Component(name="python", version=inventory["interpreter"], type=ComponentType.PLATFORM)]
    for name, about in inventory["python"].items():
        purl = PackageURL("pypi", name=name.lower().replace("_", "-"), version=about["version"])
        component = Component(name=name, version=about["version"], type=ComponentType.LIBRARY, purl=purl)
        if about["license"]:
            component.licenses.add(licenses.make_from_string(about["license"]))
        found.append(component)
    system = inventory["system"]
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', '')}".strip("-")
    for name, about in inventory["debian"].items():
        qualifiers = {"arch": about["architecture"], "distro": distribution, "upstream": about["source"]}
        purl = PackageURL("deb", "debian", name, about["version"], qualifiers)
        found.append(Component(name=name, version=about["version"], type=ComponentType.LIBRARY, purl=purl))
    for component in found:
        component.bom_ref.value = str(component.purl or component.name)
        bom.components.add(component)
    bom.register_dependency(root, found)
    return bom


def statement(image: str, digest: str, pushed: bool, bill: dict[str, Any]) -> dict[str, Any]:
    """Return the in-toto statement: this bill is that of the image with this digest.

    A pushed image has its registry's digest; one that only an engine has, the digest of its configuration (its id).
    """
    subject = {"name": image, "digest": {"sha256": digest.removeprefix("sha256:")}}
    subject["mediaType"] = _OF_REGISTRY if pushed else _OF_ENGINE
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject],
        "predicateType": PREDICATE,
        "predicate": bill,
    }


def main(image: str, folder: Path) -> None:
    about = json.loads(_said("docker", "image", "inspect", image))[0]
    pushed = next((one for one in about["RepoDigests"] or [] if one.partition("@")[0] == image.rpartition(":")[0]), "")
    digest = pushed.partition("@")[2] or about["Id"]
    command = ["docker", "run", "--rm", "--network", "none", "--read-only", "--entrypoint", "python3", image]
    inventory = json.loads(_said(*command, "-c", INVENTORY))
    bom = bill_of_materials(image, digest, about["Config"]["Labels"] or {}, inventory)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    name = image.replace("/", "_").replace(":", "_")
    (folder / f"{name}.cdx.json").write_text(text + "\n", encoding="utf-8")
    said = json.dumps(statement(image, digest, bool(pushed), json.loads(text)), indent=1)
    (folder / f"{name}.statement.json").write_text(said + "\n", encoding="utf-8")
    print(f"{folder / name}.cdx.json: {len(inventory['python'])} Python packages, {len(inventory['debian'])} of Debian")


def _said(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"error: {' '.join(command[:3])}: {' '.join(answer.stderr.split())[:300]}")
    return answer.stdout


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
