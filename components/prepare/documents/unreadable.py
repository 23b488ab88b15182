"""Handles unreadable input as ``on_unreadable`` says: stop the step, or count it and continue."""

from components.prepare.documents.document import Unreadable
from components.prepare.documents.drop_reasons import DropReason
from components.prepare.settings.source_settings import SourceSettings
from components.shared.errors import UserError


def unreadable(
    settings: SourceSettings,
    source_id: str,
    problem: str,
    *,
    where: str,
    mend: str | None = None,
    reason: DropReason = "file_unreadable",
) -> Unreadable:
    """Return the marker for a broken or boundless file, row, member or page if ``on_unreadable`` is ``skip``.

    Raises:
        UserError: ``on_unreadable`` is ``stop``; names ``where`` and how to skip it.
    """
    if settings.on_unreadable == "skip":
        return Unreadable(source_id, " ".join(problem.split()), reason)
    skip = "or set on_unreadable to skip"
    raise UserError(problem, where=where, mend=f"{mend}, {skip}" if mend else f"fix or remove it, {skip}")
