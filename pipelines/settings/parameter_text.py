"""Settings as the text of a KFP parameter, which arrives unchanged.

On its way a parameter passes through programs that replace what looks like their own syntax, anywhere in the text:
Argo replaces ``{{workflow.name}}`` and other ``{{...}}``, KFP's driver and local runner ``{{$.inputs...}}``, Kubernetes
``$(NAME)``, and KFP's subprocess runner ``python3``. A string with ``'`` makes KFP's conditions false.
"""

import json
import re
from typing import Any
from urllib.parse import quote

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ESCAPED = re.compile(r"[{}$'<>&]|(?<=python)3")


def parameter_text(value: Any) -> str:
    """Return JSON for a KFP string parameter; its strings hold no character that a program on the way replaces.

    The escaped spelling is equal JSON, so any JSON parser returns ``value``.

    >>> print(parameter_text({"instruction": "{{workflow.name}} of $(HOST)"}))
    {"instruction": "\\u007b\\u007bworkflow.name\\u007d\\u007d of \\u0024(HOST)"}
    """
    return _STRING.sub(lambda text: _ESCAPED.sub(_escaped, text[0]), json.dumps(value, ensure_ascii=True))


def parameter_word(text: str) -> str:
    """Return a name for a KFP string parameter: percent-encoded, except for the usual letters of names.

    >>> parameter_word("page-reader version 3"), parameter_word("{{x}}")
    ('page-reader version 3', '%7B%7Bx%7D%7D')
    """
    return quote(text, safe=" :/@")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
