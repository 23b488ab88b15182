"""Opens foreign files in a child process: one that takes too much time or memory is given up, and the next is read.

The limits are about work without end: documents that draw themselves, archives and pictures that unpack to gigabytes,
faults of libraries. They are no sandbox: the child has the rights of this process.

multiprocessing's fork server starts the children. Its imports are made once, so a new child takes milliseconds. Pools
with timeouts (pebble, loky) do not fit: a task gives its result at its end there, while a file gives a stream of
documents, and they limit neither CPU time nor memory.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from components.shared.foreign_files.child_process import ItemTime, ReadingChild, pickled
from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits
from components.shared.foreign_files.messages import END, ERROR, PART, READY

log = logging.getLogger(__name__)

_TASKS_AHEAD = 8
"""Tasks in the child's pipe at most: it goes on while this process is busy."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Items = Iterator[Any]
Read = Callable[[Any, Any], Items]
"""Opens what a task names and yields its items. The first argument is the reader's workplace. Must be picklable."""
Resume = Callable[[Any, LimitExceededError], Any]
"""Returns the task that gives the other items of one that went beyond a limit; None if they are lost."""


class Reader(Protocol):
    """Reads tasks in order."""

    def each(self, read: Read, tasks: Iterable[Task], resume: Resume | None = None) -> Iterator[tuple[Task, Items]]:
        """Yield each task with the items that ``read`` gives for it."""


class ReaderHere:
    """A reader in this process, without limits."""

    def __init__(self, workplace: Any = None) -> None:
        self._workplace = workplace

    def each(self, read: Read, tasks: Iterable[Task], resume: Resume | None = None) -> Iterator[tuple[Task, Items]]:
        """Yield each task with its items; there is no limit to go beyond."""
        for task in tasks:
            yield task, read(self._workplace, task)


class ForeignReader:
    """A reader in a child process with limits; a context manager. The child starts with the first task.

    Args:
        workplace: the first argument of each reading function. It is pickled whenever a child starts.
        preload: modules that hold the reading functions.
    """

    def __init__(self, limits: ReadingLimits, workplace: Any = None, preload: Sequence[str] = ()) -> None:
        self._limits = limits
        self._workplace = workplace
        self._preload = preload
        self._child: ReadingChild | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child; a later task would start another one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def stop(self) -> None:
        """Kill the child, from any thread: the one that waits for it gets LimitExceededError."""
        if child := self._child:
            child.kill()

    def each(self, read: Read, tasks: Iterable[Task], resume: Resume | None = None) -> Iterator[tuple[Task, Items]]:
        """Yield each task in order with its items; a few tasks are read in advance.

        The items raise what ``read`` raises, or LimitExceededError; the next task is read in any case. With ``resume``,
        a new child goes on with the task that it returns, and its items come behind those that there were.
        """
        self._forget_a_dead_child()
        ahead = _Ahead(read)
        remaining = iter(tasks)
        try:
            while True:
                for task in islice(remaining, _TASKS_AHEAD - len(ahead)):
                    ahead.add(task)
                if not ahead:
                    return
                if self._child is not None:
                    ahead.send(self._child)
                items = self._items_of_first(ahead, resume)
                yield ahead.first, items
                for _ in items:  # what the caller left
                    pass
                ahead.done()
        finally:
            if ahead:  # the caller went away: the child is still at these tasks
                self.close()

    def _items_of_first(self, ahead: "_Ahead", resume: Resume | None) -> Items:
        while True:
            if self._child is None:
                self._child = self._started()
            ahead.send(self._child)
            try:
                yield from self._items(self._child)
                return
            except LimitExceededError as error:
                resumed = resume(ahead.first, error) if resume else None
                if resumed is None:
                    raise
                log.info("%s: another process goes on", error.problem)
                ahead.replace_first(resumed)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return ``function(*arguments)`` of the child, or raise what it raises.

        Raises:
            LimitExceededError: it took too much time or memory, or ended the child.
        """
        self._forget_a_dead_child()
        if self._child is None:
            self._child = self._started()
        self._child.send(pickled((_called, (function, arguments))))
        items = self._items(self._child)
        result: Result = next(items)
        next(items, None)
        return result

    def _forget_a_dead_child(self) -> None:
        """Close a child that somebody ended between two tasks: the next task is not to blame."""
        if self._child is not None and not self._child.is_alive():
            self.close()

    def _started(self) -> ReadingChild:
        child = ReadingChild(self._limits, self._workplace, self._preload)
        try:
            first, _ = child.receive(ItemTime(self._limits))
        except LimitExceededError as error:
            raise RuntimeError(f"the process that reads foreign files did not start: {error}") from error
        assert first == READY
        child.started()
        return child

    def _items(self, child: ReadingChild) -> Items:
        """Yield the items of the task that the child is at."""
        item = ItemTime(self._limits)
        try:
            while True:
                kind, content = child.receive(item)
                if kind == PART:
                    item.add_part()
                elif kind == END:
                    return
                elif kind == ERROR:
                    raise content
                else:
                    yield content
                    item = ItemTime(self._limits)
        except LimitExceededError:
            self.close()
            raise
        finally:
            if said := child.said():
                log.info("what libraries said while foreign files were read: %s", said)


class _Ahead:
    """Tasks that are not done yet, in order. Some of them are with the child, which does them one after the other.

    More than its pipe holds is never sent to a child that is at a task: it may wait until its results are taken, while
    this process would wait until its task is.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._tasks: deque[tuple[Any, bytes]] = deque()
        self._child: ReadingChild | None = None
        self._sent: deque[int] = deque()
        """the bytes of each task that the child has, the first one's first"""

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def first(self) -> Any:
        return self._tasks[0][0]

    def add(self, task: Any) -> None:
        self._tasks.append((task, pickled((self._read, task))))

    def replace_first(self, task: Any) -> None:
        """Put another task in the place of the first, whose child has ended."""
        self._tasks[0] = (task, pickled((self._read, task)))

    def done(self) -> None:
        """Take out the first task."""
        self._tasks.popleft()
        if self._sent:
            self._sent.popleft()

    def send(self, child: ReadingChild) -> None:
        """Send the child what it does not have: its next task, and as many behind it as have room in its pipe."""
        if child is not self._child:
            self._child = child
            self._sent.clear()
        for _, message in list(self._tasks)[len(self._sent) :]:
            if self._sent and sum(self._sent) + len(message) > child.room_for_tasks:
                return
            child.send(message)
            self._sent.append(len(message))


def _called(workplace: Any, task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Items:
    function, arguments = task
    yield function(*arguments)
