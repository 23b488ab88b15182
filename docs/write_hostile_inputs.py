"""Writes docs/hostile-inputs.md from the table of tests/hostile: python docs/write_hostile_inputs.py."""

from pathlib import Path

from components.shared.artifacts.markdown import markdown_code, markdown_text
from tests.hostile.table import GROUPS

PAGE = Path(__file__).with_name("hostile-inputs.md")
_HEAD = """# Hostile inputs

What was tried, what reads it, and what comes of it. `tests/hostile` makes each input and checks its row; this page is
written from the same table by `docs/write_hostile_inputs.py`. "kept N": N documents; "dropped": left out with that
reason in the manifest; "refused": a user's error and exit code 2; "inert": shown as text; "hidden": the password is not
in the text. [How documents without end are stopped](dataset.md#sources).
"""


def page() -> str:
    """Return the page's text."""
    total = sum(len(group.inputs) for group in GROUPS)
    parts = [_HEAD, f"{total} inputs.\n"]
    for group in GROUPS:
        parts.append(f"## Read by `{group.reader}`\n")
        parts.append("| kind | input | how it is made | what comes of it |\n| --- | --- | --- | --- |")
        for one in sorted(group.inputs, key=lambda one: one.kind):
            cells = (markdown_text(one.kind), markdown_code(one.name), markdown_text(one.how), one.expected)
            parts.append(f"| {' | '.join(cells)} |")
        parts[-1] += "\n"
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
