"""What a base model's name stands for now, in one text: KFP's cache, which compares inputs, notices another content."""

import hashlib
import json
import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache

from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.hub import hub_is_reachable, named_refusals
from components.shared.models.standalone_inference import base_fingerprint

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
# Above it are weights alone: Gemma 3's tokenizer, of 262,000 entries, has 33 MB.
_READ_WHOLE_BYTES = 64 * 2**20


def base_digest(base_model: str, revision: str | None) -> str:
    """Return a folder's digest, or the commit that ``revision`` of a hub model is now, without downloading anything.

    Of a folder are read: every file of up to 64 MiB, as configuration, tokenizer and code; of larger ones name, size
    and time of change, and the first bytes of each tensor. Hidden files and folders are not the model's. Where the hub
    does not answer, it is the commit in the local cache, which is what the steps then load; else ``unknown``.

    Raises:
        UserError: no such folder, or one with a file that cannot be read.
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
