"""Which base model an adapter fits: its name, its revision, and digests by which ``inference.py`` knows it again."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.shared.models.hub import hub_is_reachable
from components.shared.models.standalone_inference import base_fingerprint


@dataclass(frozen=True)
class BaseIdentity:
    """A base model.

    Attributes:
        revision: the commit or tag; for a hub model without one given, the commit that was used.
        config_sha256: over the content of its config.json; None where it cannot be read.
        weights_sample_sha256: over the first bytes of each tensor; None where the weights are not here.
    """

    name: str
    revision: str | None
    config_sha256: str | None
    weights_sample_sha256: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def base_identity(name: str, location: str, revision: str | None) -> BaseIdentity:
    """Return the identity of the base in the folder ``location``, or of the hub model with that id."""
    folder = Path(location)
    if not folder.is_dir():
        folder = _snapshot(location, revision)
        # Without a revision "main" would be loaded, which moves.
        revision = revision or (folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None)
    return BaseIdentity(name, revision, **base_fingerprint(folder))


def _snapshot(hub_id: str, revision: str | None) -> Path:
    """Return the folder of the hub's cache that the model was loaded from."""
    from transformers.utils import cached_file

    found = cached_file(hub_id, "config.json", revision=revision, local_files_only=not hub_is_reachable())
    return Path(str(found)).parent
