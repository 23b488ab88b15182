"""The built-in source: the language reference topics that every Python installation carries."""

import re
from collections.abc import Iterator

from components.prepare.sources.document import Document
from components.shared.digests import sha256_json

# Underlines of headings and borders of tables, e.g. "*****" and "+-----+-----+": drawings, not text.
_RULE = re.compile(r"[\s|+]*[-=*~^]{4,}[-=*~^+|\s]*")


def read_python_docs() -> Iterator[Document]:
    """Yield one document per topic of ``pydoc_data``: its heading as title, its text without rules."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        title, _, body = topics[name].strip().partition("\n")
        text = "\n".join(line for line in body.split("\n") if not _RULE.fullmatch(line))
        yield Document(source_id=name, text=text, title=title, lang="en")


def python_docs_digest() -> str:
    """Return the sha256 over all topics; it differs between versions of Python."""
    return sha256_json([[document.source_id, document.title, document.text] for document in read_python_docs()])
