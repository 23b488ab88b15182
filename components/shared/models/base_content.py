"""A digest of what a base model's name resolves to now, so that KFP's cache, which compares inputs, notices changes."""

import hashlib
import json
import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache

from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.hub import hub_is_reachable, named_refusals
from components.shared.page_reader.base_check import base_fingerprint

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
# Only weights are larger: Gemma 3's tokenizer with 262,000 entries has 33 MB.
_READ_WHOLE_BYTES = 64 * 2**20


def base_digest(base_model: str, revision: str | None) -> str:
    """Return a folder's digest, or the commit that ``revision`` of a hub model points to now, without a download.

    A folder's digest covers the content of files up to 64 MiB (configuration, tokenizer, code), and for larger files
    name, size, time of change and the first bytes of each tensor. Hidden files and folders are ignored. If the hub
    does not answer, the result is the commit in the local cache, which the steps then load, or else ``unknown``.

    Raises:
        UserError: no such folder, or a file in it cannot be read.
    """
    location = base_model_location(base_model)
    if Path(location).is_dir():
        return _folder_digest(Path(location))
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    commit = _commit_on_the_hub(location, revision) or _commit_in_the_cache(location, revision)
    if commit is None:
        logger.warning("%s: which commit it is cannot be had, so KFP's cache does not notice another one", base_model)
    return commit or UNKNOWN


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    try:
        seen = [[path.relative_to(folder).as_posix(), *_content(path)] for path in files]
    except OSError as error:
        raise UserError(f"a file of the base model cannot be read ({error})", where=str(folder)) from error
    known = json.dumps([seen, base_fingerprint(folder)])
    return hashlib.sha256(known.encode()).hexdigest()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _content(path: Path) -> tuple[int, int | str]:
    stat = path.stat()
    if stat.st_size > _READ_WHOLE_BYTES:
        return stat.st_size, stat.st_mtime_ns
    return stat.st_size, hashlib.sha256(path.read_bytes()).hexdigest()


def _commit_on_the_hub(hub_id: str, revision: str | None) -> str | None:
    if not hub_is_reachable():
        return None
    try:
        with named_refusals(f"base_model {hub_id!r}"):
            return HfApi().model_info(hub_id, revision=revision).sha
    except UserError as error:
        logger.info("%s; the commit in the local cache is taken", error)
        return None


def _commit_in_the_cache(hub_id: str, revision: str | None) -> str | None:
    """Return the name of the snapshot's folder."""
    found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
