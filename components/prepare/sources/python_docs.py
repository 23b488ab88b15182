"""The built-in source: the language reference topics that every Python installation carries."""

from collections.abc import Iterator

from components.prepare.sources.document import Document
from components.shared.lineage import sha256_json


def read_python_docs() -> Iterator[Document]:
    """Yield one document per topic of ``pydoc_data``, e.g. ``assert`` and ``specialnames``."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(source_id=name, text=topics[name], lang="en")


def python_docs_digest() -> str:
    """Return the sha256 over all topics; it differs between versions of Python."""
    return sha256_json([[document.source_id, document.text] for document in read_python_docs()])
