"""The error that a user can mend, the one that nobody can, and texts about errors that hold no password."""

import os
import re
import unicodedata
from urllib.parse import unquote

EXIT_CODE_USER_ERROR = 2
EXIT_CODE_INTERRUPTED = 130
_HIDDEN = "***"
_JOINERS = "\u200c\u200d"  # invisible, and part of the spelling of Persian, Hindi and emoji
_UP_TO_THE_LAST_AT = re.compile(r"(?<=//)\S*(?=@)")
_SECRET_VARIABLES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
_SHORTEST_SECRET = 4
"""Characters; a shorter part of a password would be hidden inside ordinary words."""


class UserError(Exception):
    """Something the user can fix: a wrong option, a missing file, a corrupt shard.

    Programs print it on one line and exit with code 2, without a traceback. Passwords in its texts are hidden, and
    control characters escaped.

    Args:
        problem: what is wrong, e.g. ``"the shard's sha256 is not the manifest's"``.
        where: the file, row or config field, e.g. ``"train-000001.tar"``.
        mend: what to do, e.g. ``"run the prepare step again"``.
    """

    def __init__(self, problem: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.problem = without_passwords(problem)
        self.where = without_passwords(where) if where else where
        self.mend = without_passwords(mend) if mend else mend
        prefix = f"{self.where}: " if where else ""
        suffix = f"; {self.mend}" if mend else ""
        super().__init__(printable(" ".join(f"{prefix}{self.problem}{suffix}".split())))


class StepFailedError(Exception):
    """A step failed with an error that the user cannot fix; the log has its traceback."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message, or its class name if the message is empty.

    >>> first_line(ValueError("odd\nand more")), first_line(KeyError())
    ('odd', 'KeyError')
    """
    return without_passwords((str(error).strip() or type(error).__name__).splitlines()[0])


def printable(text: str, keep: str = "") -> str:
    r"""Return ``text`` with control, bidirectional and other invisible characters as escapes, except those in ``keep``.

    File names, settings and texts of strangers may hold terminal commands, or marks that turn a line around.

    >>> printable("a\x1b[2Jb\u202egnp.exe"), printable("two\nlines", keep="\n")
    ('a\\x1b[2Jb\\u202egnp.exe', 'two\nlines')
    """
    return "".join(
        sign
        if sign.isprintable() or sign in keep or sign in _JOINERS or unicodedata.category(sign) == "Zs"
        else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )


def without_passwords(text: str) -> str:
    """Return ``text`` with ``***`` for user and password of each address, and for the secrets of this environment.

    A password may hold ``/``, ``@``, ``?`` and ``#`` although an address does not allow them; where an address could
    be read in two ways, the longer part is hidden.

    >>> without_passwords("http://me:p@ss/w@host:5000/x is down; hf://datasets/me/pages@main is not")
    'http://***@host:5000/x is down; hf://datasets/me/pages@main is not'
    """
    for secret in _secrets_of_environment():
        text = text.replace(secret, _HIDDEN)
    return _UP_TO_THE_LAST_AT.sub(_hidden_user, text)


def _hidden_user(match: re.Match[str]) -> str:
    before_at = match[0]
    first_part = re.split(r"[/?#]", before_at, maxsplit=1)[0]
    if ":" in first_part or first_part == before_at:
        return _HIDDEN
    if "@" in first_part:  # a user or a token without a colon; the last @ belongs to the path
        return _HIDDEN + before_at[first_part.rindex("@") :]
    return before_at  # no user: the @ belongs to the path, as in hf://datasets/me/pages@main


def _secrets_of_environment() -> list[str]:
    """Return the passwords and tokens in the environment's variables, the longest first.

    Libraries quote addresses in parts, so the parts of a password between ``/``, ``@``, ``:``, ``?`` and ``#`` count.
    """
    found = {os.environ[name] for name in _SECRET_VARIABLES if os.environ.get(name)}
    for name, value in os.environ.items():
        is_address = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://\S+@", value) or name.lower().endswith("_proxy")
        if not is_address or "@" not in value:
            continue
        address = value if "//" in value else f"//{value}"
        match = _UP_TO_THE_LAST_AT.search(address)
        password = match[0].partition(":")[2] if match and _hidden_user(match) == _HIDDEN else ""
        for form in {password, unquote(password)}:
            found |= {form, *re.split(r"[/@:?#]", form)}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)
