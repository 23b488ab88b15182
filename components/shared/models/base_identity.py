"""Identifies the base model of an adapter: name, revision, and the digests that ``inference.py`` checks."""

import re
from pathlib import Path

from components.shared.artifacts.training_record import BaseIdentity
from components.shared.models.hub import hub_is_reachable
from components.shared.page_reader.base_check import base_fingerprint


def base_identity(name: str, location: str, revision: str | None) -> BaseIdentity:
    """Return the identity of the base in the folder ``location``, or of the hub model with that id."""
    folder = Path(location)
    if not folder.is_dir():
        folder = _snapshot(location, revision)
        # Without a revision, "main" would be loaded, which can change.
        revision = revision or (folder.name if re.fullmatch("[0-9a-f]{40}", folder.name) else None)
    return BaseIdentity(name=name, revision=revision, **base_fingerprint(folder))


def _snapshot(hub_id: str, revision: str | None) -> Path:
    """Return the folder in the hub's cache that the model was loaded from."""
    from transformers.utils import cached_file

    found = cached_file(hub_id, "config.json", revision=revision, local_files_only=not hub_is_reachable())
    return Path(str(found)).parent
