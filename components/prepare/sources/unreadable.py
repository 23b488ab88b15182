"""What happens at something that cannot be read: the user decides whether it stops the step or is counted."""

from components.prepare.source_settings import SourceSettings
from components.prepare.sources.document import Unreadable
from components.shared.errors import UserError


def unreadable(
    settings: SourceSettings, source_id: str, problem: str, *, where: str, mend: str | None = None
) -> Unreadable:
    """Return the marker that stands for a broken file, row, member or page where ``on_unreadable`` is ``skip``.

    Raises:
        UserError: ``on_unreadable`` is ``stop``; it names ``where`` and ends with how to skip it.
    """
    if settings.on_unreadable == "skip":
        return Unreadable(source_id, " ".join(problem.split()))
    skip = "or set on_unreadable to skip"
    raise UserError(problem, where=where, mend=f"{mend}, {skip}" if mend else f"mend or remove it, {skip}")
