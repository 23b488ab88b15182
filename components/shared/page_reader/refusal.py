"""The error that the packaged programs print in one line."""


class RefusalError(Exception):
    """Something that the user of a package can fix: a missing file, an unreadable picture, another base model."""
