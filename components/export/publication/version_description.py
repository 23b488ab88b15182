"""The description of a registered version: the model card, without what MLflow's page cannot show.

A package may come from somebody else, so the card is foreign text: only headings, tables, lists and emphasis remain.
"""

import re

from components.shared.errors import printable

LONGEST = 5000
"""Characters; MLflow's database column for a version's description."""
_LONGEST_CARD = 200_000
_WHOLE_CARD = "The whole card is `README.md` in this version's artifacts."
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_FOLDED = re.compile(r"<(details|pre)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_IMAGE_OR_LINK = re.compile(r"(?<!\\)!?\[([^\[\]]*)\]\([^()]*\)")
_SAFE_TAG = re.compile(r"<(/?code)>")
_LINKING = re.compile(
    r"(?<=[\]\)])([(:\[])|(:)(?=//)|(?<=\bwww)(\.)|(?<=[a-z0-9])(@)(?=[a-z0-9])|(?<=mailto)(:)", re.IGNORECASE
)


def version_description(card: str) -> str:
    """Return a model card's text for MLflow: no HTML, code blocks, pictures or links, at most ``LONGEST`` characters.

    >>> version_description("---\\na: b\\n---\\n# reader\\n<script>x</script> [a](javascript:x)")
    '# reader\\n&lt;script>x&lt;/script> a'
    """
    text = _without_fences(_FOLDED.sub("", _FRONT_MATTER.sub("", card[:_LONGEST_CARD])))
    text = _inert(_IMAGE_OR_LINK.sub(r"\1", text))
    sections = _without_empty_ones(re.split(r"(?m)^(?=## )", text))
    kept, room = "", LONGEST - len(_WHOLE_CARD) - 2
    for section in sections:
        if len(kept) + len(section) + 1 > room:
            break
        kept += section.strip() + "\n\n"
    if len(kept.split()) < len(text.split()):
        kept += _WHOLE_CARD
    return kept.strip()


def _without_fences(text: str) -> str:
    """Return ``text`` without its code blocks; one that never ends goes on to the end."""
    kept: list[str] = []
    closing: str | None = None
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if closing is None and fence:
            closing = fence[1]
        elif closing is not None:
            if fence and fence[1].startswith(closing) and not line.strip(" `~"):
                closing = None
        else:
            kept.append(line)
    return "\n".join(kept)


def _inert(text: str) -> str:
    """Return ``text`` without HTML except ``<code>``, and without links."""
    text = printable(text, keep="\n")
    parts = _SAFE_TAG.split(text)  # text, tag, text, tag, …
    parts[::2] = [_LINKING.sub(_as_entity, part.replace("<", "&lt;")) for part in parts[::2]]
    return "".join(f"<{part}>" if index % 2 else part for index, part in enumerate(parts))


def _as_entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def _without_empty_ones(sections: list[str]) -> list[str]:
    """Return the sections that have more than their heading."""
    blank_lines = [re.sub(r"\n{3,}", "\n\n", section) for section in sections]
    return [section for section in blank_lines if section.strip().count("\n") or not section.startswith("## ")]
