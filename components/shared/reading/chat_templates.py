"""A model's chat template: a program of whoever published the model, run in Jinja's sandbox and within bounds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import ProcessorMixin

from components.shared.errors import UserError
from components.shared.programs.memory_limit import memory_limit
from components.shared.programs.time_limit import time_limit

_MOST_LINES = 1_000_000
"""Lines of Python that a template may run for one prompt; the sandbox bounds one loop, not loops inside loops."""


_MOST_SECONDS = 30.0
_MOST_BYTES = 2**30
"""of time and memory, for single operations: ``'x' * 10 ** 10`` is one line"""
_known: set[str] = set()
"""Templates that have rendered a prompt within the limit of memory, which holds for all threads: once is enough."""


class _EndlessError(Exception):
    """The template ran too many lines, or took too much time or memory."""


def rendered_prompt(processor: ProcessorMixin, prompt: str, where: str) -> str:
    """Return the text that the processor's chat template makes of one picture followed by ``prompt``.

    Raises:
        UserError: the template is not valid, asks for what the sandbox refuses, raises, or does not end.
    """
    content: Any = [{"type": "image"}, {"type": "text", "text": prompt}]
    try:
        with _bounded(str(processor.chat_template)):
            return str(
                processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            )
    except Exception as error:  # a template can raise anything: by a division, a missing value, raise_exception()
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"the processor's chat template fails ({type(error).__name__.removeprefix('_')}: {said})",
            where=where,
            mend="correct chat_template.jinja, or the chat_template in the processor's JSON files",
        ) from error


@contextmanager
def _bounded(template: str) -> Iterator[None]:
    with time_limit(_MOST_SECONDS, _EndlessError(f"more than {_MOST_SECONDS:g} seconds")), _at_most_lines(_MOST_LINES):
        if template in _known:
            yield
            return
        try:
            with memory_limit(_MOST_BYTES):
                yield
        except MemoryError as error:
            raise _EndlessError(f"more than {_MOST_BYTES >> 30} GiB of memory") from error
    _known.add(template)


@contextmanager
def _at_most_lines(limit: int) -> Iterator[None]:
    """Raise ``_EndlessError`` in the block after ``limit`` lines of Python.

    Lines and not seconds are counted, so that a busy machine refuses no template.
    """
    before, left = sys.gettrace(), limit

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _EndlessError(f"more than {limit:,} lines were run")
        return count

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
