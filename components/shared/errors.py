"""The error that a user can mend, the one that nobody can, and texts about errors that hold no password."""

import unicodedata

from components.shared.passwords import without_passwords as without_passwords

EXIT_CODE_USER_ERROR = 2
EXIT_CODE_INTERRUPTED = 130
_JOINERS = "\u200c\u200d"  # invisible, and part of the spelling of Persian, Hindi and emoji
_LONGEST_PART = 2_000
"""Characters of an error's problem, place or mend; a stranger's file may put a megabyte of one word there."""


class UserError(Exception):
    """Something the user can fix: a wrong option, a missing file, a corrupt shard.

    Programs print it on one line and exit with code 2, without a traceback. Passwords in its texts are hidden,
    control characters escaped, and what is longer than 2,000 characters is cut in its middle.

    Args:
        problem: what is wrong, e.g. ``"the shard's sha256 is not the manifest's"``.
        where: the file, row or config field, e.g. ``"train-000001.tar"``.
        mend: what to do, e.g. ``"run the prepare step again"``.
    """

    def __init__(self, problem: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.problem = _shown(problem)
        self.where = _shown(where) if where else where
        self.mend = _shown(mend) if mend else mend
        prefix = f"{self.where}: " if where else ""
        suffix = f"; {self.mend}" if mend else ""
        super().__init__(printable(" ".join(f"{prefix}{self.problem}{suffix}".split())))


def _shown(text: str) -> str:
    text = without_passwords(text)  # before it is cut: half a password has no @ behind it
    if len(text) <= _LONGEST_PART:
        return text
    half = _LONGEST_PART // 2
    return f"{text[:half]} … [{len(text) - 2 * half:,} characters left out] … {text[-half:]}"


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
