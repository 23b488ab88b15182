"""What is done to label and prediction before they are compared: named, versioned profiles.

A profile never changes once published; a change is a new version, so that old reports stay comparable.
"""

import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

Profile = Literal["none-v1", "nfc-v1", "nfkc-ws-v1"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


def normalizer(profile: Profile) -> Callable[[str], str]:
    """Return the function of a profile.

    - ``none-v1``: the text as it is.
    - ``nfc-v1``: Unicode NFC, so that composed and decomposed accents are equal.
    - ``nfkc-ws-v1``: Unicode NFKC (ligatures, full-width forms and the like become plain characters), every run
      of white space becomes one space, and none is left at the ends. Case and punctuation count.

    >>> normalizer("nfkc-ws-v1")(" \\ufb01ne\\n\\n print ")
    'fine print'
    """
    return _FUNCTIONS[profile]


def _nfkc_one_space(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


_FUNCTIONS: dict[Profile, Callable[[str], str]] = {
    "none-v1": lambda text: text,
    "nfc-v1": lambda text: unicodedata.normalize("NFC", text),
    "nfkc-ws-v1": _nfkc_one_space,
}
