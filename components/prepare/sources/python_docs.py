"""Reads the built-in source: the language reference that every Python installation has."""

import re
from collections.abc import Iterator

from components.prepare.documents.document import Document
from components.shared.digests import sha256_json

# Underlined headings and borders of tables, e.g. "*****" and "+-----+-----+", are not text.
_RULE = re.compile(r"[\s|+]*[-=*~^]{4,}[-=*~^+|\s]*")


def read_python_docs() -> Iterator[Document]:
    """Yield one document per topic of ``pydoc_data``: its heading as title, its text without character-drawn rules."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        title, _, body = topics[name].strip().partition("\n")
        text = "\n".join(line for line in body.split("\n") if not _RULE.fullmatch(line))
        yield Document(source_id=name, text=text, title=title, lang="en")


def python_docs_digest() -> str:
    """Return the sha256 of all topics; it differs between Python versions."""
    return sha256_json([[document.source_id, document.title, document.text] for document in read_python_docs()])
