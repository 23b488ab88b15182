"""The one error that a user can mend: it says what is wrong, where, and what to do."""

EXIT_CODE_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend: a wrong option, a missing file, a corrupt shard.

    Programs print it as one line and exit with 2, without a traceback.

    Args:
        problem: what is wrong, e.g. ``"the shard's sha256 is not the manifest's"``.
        where: the file, row or config field, e.g. ``"train-000001.tar"``.
        mend: what to do, e.g. ``"run the prepare step again"``.
    """

    def __init__(self, problem: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.problem = problem
        self.where = where
        self.mend = mend
        prefix = f"{where}: " if where else ""
        suffix = f"; {mend}" if mend else ""
        super().__init__(" ".join(f"{prefix}{problem}{suffix}".split()))


def first_line(error: BaseException) -> str:
    r"""Return the first line of what an error says; its class where it says nothing.

    >>> first_line(ValueError("odd\nand more")), first_line(KeyError())
    ('odd', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
