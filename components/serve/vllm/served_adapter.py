"""An adapter in a vLLM server: which files it is, and that vLLM reads with them and with nothing older.

vLLM keeps the keys and values of what it has read for the next request that begins alike. It tells adapters apart by
name and folder (v1/core/kv_cache_utils.py of vLLM 0.32), not by their weights. And it
reads a folder again whenever another adapter took the place of this one in memory. So an adapter that was written anew
in the same folder would be read with in part. Two things prevent it: each request has the adapter's digest as
``cache_salt``, and a server that the service started loads from a copy that nobody writes to.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from components.serve.reading.version_reading import VersionReading
from components.serve.vllm.client import VllmClient, VllmRefusedError
from components.serve.vllm.prompts import ModelInVllm, Prompts
from components.serve.vllm.proof import prove_adapter
from components.shared.digests import sha256_file, sha256_of_files
from components.shared.errors import UserError, first_line
from components.shared.vllm.adapter_names import check_names, write_served_adapter
from components.shared.vllm.served_families import ServedFamily

_SERVED_FOLDER, _SERVING_FILE = "vllm", "serving.json"
_FILES, _WEIGHTS = "adapter_*", "adapter_model.safetensors"  # the other one is adapter_config.json
_NOT_FOUND = 404


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter for a vLLM server.

    Attributes:
        name: in requests.
        folder: what vLLM loads.
        digest: of its files.
        is_copy: the folder is a copy of this service's.
        reading: how its pages are read.
    """

    name: str
    folder: Path
    digest: str
    is_copy: bool
    reading: VersionReading

    @property
    def model(self) -> ModelInVllm:
        """How requests name it, and how its pages are read."""
        return ModelInVllm(self.name, self.digest, self.reading)

    def discard(self) -> None:
        """Remove the copy, if there is one."""
        if self.is_copy:
            shutil.rmtree(self.folder, ignore_errors=True)


def served_adapter(
    name: str, folder: Path, reading: VersionReading, family: ServedFamily | None, copies: Path | None
) -> ServedAdapter:
    """Return the adapter of a folder; write it into ``copies`` unless that is None. Takes seconds for large ones.

    Args:
        reading: how the version's pages are read.
        family: how vLLM serves the base's family: the copy has the names of vLLM's class, and an adapter of which it
            would load a part only is refused; None if that is not known.

    Raises:
        UserError: vLLM does not load all of it, or has other names for it and there is no copy, or a file cannot be
            read.
    """
    folder = _under_vllms_names(name, folder)
    try:
        if family is not None and copies is None:
            check_names(folder, family)
        if copies is not None:
            folder = _written(folder, family, copies)
        digests = {path.name: sha256_file(path) for path in sorted(folder.glob(_FILES))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise UserError(f"cannot be read ({first_line(error)})", where=name) from error
    return ServedAdapter(name, folder, sha256_of_files(digests), copies is not None, reading)


def _written(folder: Path, family: ServedFamily | None, copies: Path) -> Path:
    copies.mkdir(exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=copies))
    try:
        if family is not None and (folder / _WEIGHTS).is_file():
            write_served_adapter(folder, family, copy)
        else:
            for path in folder.glob(_FILES):
                shutil.copyfile(path, copy / path.name)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return copy


async def load_adapter(client: VllmClient, prompts: Prompts, base: ModelInVllm, adapter: ServedAdapter) -> None:
    """Load an adapter and prove that it is used.

    Raises:
        UserError: vLLM refuses it, does not use it, or has another adapter of this name.
        VllmUnreachableError, VllmRefusedError: see there.
    """
    name = adapter.name
    loaded = {card.id: card for card in await client.models()}.get(name)
    if loaded is not None:
        # Every load of ours has a copy of its own, so an older one of this name is what an unloading left behind.
        if not adapter.is_copy and loaded.root != str(adapter.folder):
            raise UserError("vLLM has another adapter of this name", where=name, mend="unload it there first")
        # Its files may have changed. Not in place: vLLM would read them again for every step of every answer.
        await client.unload_adapter(name)
    try:
        await client.load_adapter(name, adapter.folder)
    except VllmRefusedError as error:
        missing = error.status == _NOT_FOUND and "HTTP status" in str(error)
        mend = "start the server with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" if missing else None
        raise UserError(f"vLLM does not load it: {error}", where=name, mend=mend) from error
    try:
        # Read as the base's pages are: with a prompt of its own, the answers would differ without the adapter, too.
        await prove_adapter(client, prompts, base, ModelInVllm(name, adapter.digest))
    except (UserError, VllmRefusedError):
        await client.unload_adapter(name)
        raise


def _under_vllms_names(name: str, folder: Path) -> Path:
    """Return a package's folder ``vllm``, which an export with ``serving: [vllm]`` writes, or the folder itself.

    Raises:
        UserError: that export found that vLLM does not load all of the adapter, and merged it instead.
    """
    served = folder / _SERVED_FOLDER
    if (served / "adapter_config.json").is_file():
        return served
    if (served / _SERVING_FILE).is_file():
        raise UserError(
            "vLLM does not load all of this package's adapter",
            where=name,
            mend="serve its merged weights as base_model, or take engine embedded",
        )
    return folder
