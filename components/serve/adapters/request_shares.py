"""Shares of the requests, chosen by a hash of the request's id: the same id is always on the same side."""

import hashlib

_BYTES = 8


def position_of(request_id: str) -> float:
    """Return the place of a request in [0, 1): SHA-256 of its id, uniform over ids; below a share, it belongs to it.

    All shares use the same place, so the requests of a smaller share are among those of a larger one.

    >>> position_of("a"), position_of("b")
    (0.7913742705223815, 0.24273539101725328)
    """
    digest = hashlib.sha256(request_id.encode()).digest()[:_BYTES]
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 53 bits: what a float holds exactly
