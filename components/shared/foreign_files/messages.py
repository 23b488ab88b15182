"""What goes through the pipe from a reading child to its parent.

A message is one byte for its kind, and a pickle. The arrays of an item follow it as they are: a page's picture of
1.3 MB took 6 ms of CPU time as part of the pickle, in both processes together, and takes 0.6 ms so.
"""

import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

from components.shared.foreign_files.limits import LimitExceededError

READY, ITEM, ITEM_WITH_ARRAYS, PART, END, ERROR = (bytes([kind]) for kind in range(6))


def send_item(connection: Connection, item: Any, most_bytes: int) -> None:
    """Send an item.

    Raises:
        LimitExceededError: it has more than ``most_bytes``; nothing is sent.
    """
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    sizes = [view.nbytes for view in views]
    if len(content) + sum(sizes) > most_bytes:
        raise LimitExceededError("size", f"it holds more than {most_bytes} bytes")
    if not views:
        connection.send_bytes(ITEM + content)
        return
    connection.send_bytes(ITEM_WITH_ARRAYS + pickle.dumps((sizes, content)))
    for view in views:
        while view.nbytes:
            view = view[os.write(connection.fileno(), view) :]


def received_item(connection: Connection, kind: bytes, content: memoryview) -> Any:
    """Return the item of a message of the kind ITEM or ITEM_WITH_ARRAYS.

    Raises:
        EOFError: the child died while it sent the arrays.
    """
    if kind == ITEM:
        return pickle.loads(content)
    sizes, content_of_item = pickle.loads(content)
    return pickle.loads(content_of_item, buffers=[_array(connection, size) for size in sizes])


def _array(connection: Connection, size: int) -> bytearray:
    array = bytearray(size)
    rest = memoryview(array)
    while rest:
        count = os.readv(connection.fileno(), [rest])
        if not count:
            raise EOFError
        rest = rest[count:]
    return array
