"""The files of an adapter's or a model's folder that go into a package: an allow-list, without code and pickles."""

import fnmatch
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from components.shared.errors import UserError

logger = logging.getLogger(__name__)

# Weights, configs, tokenizers and processors by the names that transformers and PEFT save them under, and licences.
_DATA = (
    *("*.safetensors", "*.safetensors.index.json"),
    *("adapter_config.json", "config.json", "generation_config.json", "training.json"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("*.tiktoken", "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*"),
)
_CODE = ("*.py",)
_OF_A_BASE = ("README.md",)
_EXPECTED = ("README.md", "checkpoint-*", ".*", "*/.*", "__pycache__/*")  # left out without a warning
_NAMED = 10


def model_files(folder: Path, *, with_code: bool, also: Sequence[str] = ()) -> dict[str, Path]:
    """Return relative path -> file of what a package takes from ``folder``, in the order of ``sha256_folder``.

    ``with_code`` adds Python files, for ``trust_remote_code``; ``also`` are further patterns.

    Raises:
        UserError: one of these files is a link out of the folder.
    """
    return {name: path for name, path in _files(folder).items() if _is_taken(name, with_code, also, folder, path)}


def base_files(folder: Path, *, with_code: bool) -> dict[str, Path]:
    """Return ``model_files`` of a base model's folder, with its README.md.

    Raises:
        UserError: one of these files is a link out of the folder.
    """
    return model_files(folder, with_code=with_code, also=_OF_A_BASE)


def copy_base_files(source: Path, target: Path, *, with_code: bool) -> None:
    """Copy ``base_files`` into ``target``; see ``copy_model_files``."""
    copy_model_files(source, target, with_code=with_code, also=_OF_A_BASE)


def copy_model_files(source: Path, target: Path, *, with_code: bool, also: Sequence[str] = ()) -> None:
    """Copy ``model_files`` into ``target`` and log the names of other files, which stay out of the package.

    Raises:
        UserError: one of the files is a link out of the folder.
    """
    taken = model_files(source, with_code=with_code, also=also)
    for name, path in taken.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    left_out = [name for name in _files(source) if name not in taken and not _matches(name, _EXPECTED)]
    if left_out:
        named = ", ".join(left_out[:_NAMED]) + (f" and {len(left_out) - _NAMED} more" if left_out[_NAMED:] else "")
        logger.warning("left out of the package, as they are no weights, configs or processor files: %s", named)


def _files(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _is_taken(name: str, with_code: bool, also: Sequence[str], folder: Path, path: Path) -> bool:
    if not _matches(name, [*_DATA, *(_CODE if with_code else ()), *also]):
        return False
    if not path.is_file():
        return False  # a link to a folder, or to nothing
    if path.is_symlink() and not _stays_within(path, folder):
        raise UserError(
            "is a link to a file outside of its folder, which a package does not follow",
            where=str(path),
            mend="put the file itself there",
        )
    return True


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern matches; one without a slash matches at the top of the folder only."""
    depth = name.count("/")
    return any(
        fnmatch.fnmatchcase(name, pattern) and (pattern in _EXPECTED or depth == pattern.count("/"))
        for pattern in patterns
    )


def _stays_within(link: Path, folder: Path) -> bool:
    """Return whether a link leads to a file of ``folder``, or of the same repository in the hub's cache."""
    places = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":  # models--OWNER--NAME/snapshots/COMMIT links to ../../blobs
        places.append(folder.resolve().parents[1] / "blobs")
    return any(link.resolve().is_relative_to(place) for place in places)
