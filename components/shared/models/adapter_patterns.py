"""Checks the regular expressions in a stranger's ``adapter_config.json`` before PEFT applies them."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.shared.errors import UserError
from components.shared.programs.time_limit import time_limit

_LONGEST_SECONDS = 10.0
"""For all names of a model; an ordinary pattern takes less than a millisecond for a thousand names."""
_MOST_BYTES = 10_000_000
_PROGRAM = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    compiled = re.compile(pattern)
    for name in names:
        compiled.match(name)
"""
_MEND = "take an adapter whose target_modules are a list of names, as the train step writes them"


def check_adapter_patterns(path: Path, module_names: Iterable[str]) -> None:
    """Apply the patterns of an ``adapter_config.json`` to a model's module names, within a time limit.

    Raises:
        UserError: the file is too large or not a JSON mapping, a pattern is not a regular expression, or they take too
            long.
    """
    where = str(path)
    slow = UserError(f"its patterns take over {_LONGEST_SECONDS:g} s to apply", where=where, mend=_MEND)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"larger than {_MOST_BYTES / 1e6:g} MB", where=where, mend=_MEND)
        content = json.loads(path.read_text(encoding="utf-8"))
        names = list(module_names)
        patterns = list(_patterns(content))
        if threading.current_thread() is threading.main_thread():
            with time_limit(_LONGEST_SECONDS, slow):
                _apply(patterns, names)
        else:
            _apply_in_a_process(patterns, names, slow)
    except re.error as error:
        raise UserError(f"a pattern in it is not a regular expression ({error})", where=where, mend=_MEND) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"cannot be read as an adapter's settings ({error})", where=where, mend=_MEND) from error


def _apply(patterns: list[str], names: list[str]) -> None:
    for pattern in patterns:
        compiled = re.compile(pattern)
        for name in names:
            compiled.match(name)


def _apply_in_a_process(patterns: list[str], names: list[str], slow: UserError) -> None:
    """Apply them where a time limit needs no signal: a thread gets none, and ``re`` holds Python's lock meanwhile."""
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([patterns, names]),
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise slow from None
    if ended.returncode:
        raise re.error(ended.stderr.strip().rpartition("\n")[2] or f"exit code {ended.returncode}")


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """Yield the patterns in the forms in which PEFT 0.21 applies them (tuners_utils.py, other.py)."""
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(pattern := config.get(field), str):
            yield rf"(?:{pattern})\Z"
    for field in ("rank_pattern", "alpha_pattern"):
        for key in config.get(field) or {}:
            yield rf"(.*\.)?({key})$"
    layers = config.get("layers_pattern") or []
    for pattern in [layers] if isinstance(layers, str) else layers:
        yield rf".*\.{pattern}\.(\d+)\."
