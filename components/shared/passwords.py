"""Texts without passwords: in addresses however they are spelled, in query values, and those of the environment.

Every log line, event, error and span goes through here, and holds what strangers wrote. So the work grows with the
text's length and no faster: the text is cut into words, each word is searched from one end, and no regular expression
can go back over what it has passed.
"""

import os
import re
from urllib.parse import unquote

_HIDDEN = "***"
_SECRET_VARIABLES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
_SHORTEST_SECRET = 4
"""Characters; a shorter part of a password would be hidden inside ordinary words."""
_SPELLINGS = (
    *(("//", ":", "@"), (r"\/\/", ":", "@")),  # the second is how some writers of JSON escape it
    *(("%2F%2F", "%3A", "%40"), ("%2f%2f", "%3a", "%40")),  # an address as a value in another address
)
_MOST_SPACES = 8
"""in a password: how far an address that was cut by a space is followed"""
_FIRST_PART = re.compile(r"[^/?#]*")
_PORT = re.compile(r"[0-9]{1,5}(?![0-9A-Za-z])")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}(?![0-9A-Za-z])")
_HOST_AND_PATH = re.compile(r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)/")
_USER = re.compile(r"[\w.%+@\\/-]+")
_OPENERS = re.compile(r"[\"'`(\[{<=,;|]")
_SECRET_ENDINGS = (
    *("token", "signature", "password", "passwd", "secret", "credential", "credentials"),
    *("api_key", "apikey", "access_key", "accesskeyid", "secret_key"),
)
_SECRET_NAMES = ("sig", "pwd", "pass", "auth", "authorization")
_VALUE = re.compile(r"[^#\"'<>`)\]},\\]*")


def without_passwords(text: str) -> str:
    r"""Return ``text`` with ``***`` for user and password of each address, and for the secrets of this environment.

    A password may hold ``/``, ``@``, ``?``, ``#`` and spaces although an address does not allow them; where an address
    could be read in two ways, the longer part is hidden. ``hf://`` alone has no passwords: its ``@`` is a revision.
    Values of a query whose names say that they are secret, as in ``?token=…&X-Amz-Signature=…``, are hidden too.

    >>> without_passwords("http://me:p@ss/w@host:5000/x is down; hf://datasets/me/pages@main is not")
    'http://***@host:5000/x is down; hf://datasets/me/pages@main is not'
    >>> without_passwords(r"http:\/\/me:pw@host, me:pw@host:5000, https://host/x?page=2&token=abc")
    'http:\\/\\/***@host, ***@host:5000, https://host/x?page=2&token=***'
    """
    for secret in _secrets_of_environment():
        text = text.replace(secret, _HIDDEN)
    if "@" not in text and "=" not in text and "%40" not in text:
        return text
    words = re.split(r"(\s+)", text)  # words, and between them the spaces
    shown, at = [], 0
    while at < len(words):
        end = _end_of_address(words, at)
        shown.append(_hidden("".join(words[at : end + 1])))
        shown += words[end + 1 : end + 2]
        at = end + 2
    return "".join(shown)


def _end_of_address(words: list[str], at: int) -> int:
    """Return the place of the word in which the address that begins at ``at`` ends: a password may hold spaces."""
    _, slashes, rest = words[at].rpartition("//")
    user, colon, begun = rest.partition(":")
    if not slashes or not colon or not begun or "@" in begun or set(user) & set("/?#[@") or _PORT.match(begun):
        return at
    for end in range(at + 2, min(at + 2 * _MOST_SPACES + 1, len(words)), 2):
        if "\n" in words[end - 1] or "//" in words[end]:
            return at
        if "@" in words[end]:
            return end
    return at


def _hidden(word: str) -> str:
    if "@" in word or "%40" in word:
        for slashes, colon, at in _SPELLINGS:
            word = _without_user(word, slashes, colon, at)
        if "//" not in word:
            word = _without_bare_user(word)
    return _without_query_secrets(word) if "=" in word else word


def _without_user(word: str, slashes: str, colon: str, at: str) -> str:
    end = word.rfind(at)
    begin = word.find(slashes, 0, max(end, 0))
    while begin >= 0:
        is_of_the_hub = word.startswith("hf:", begin - 3) if begin >= 3 else False
        begin += len(slashes)
        match = _FIRST_PART.match(word, begin, end)
        first = match[0] if match else ""
        if colon in first or (not is_of_the_hub and (word.rfind(colon, begin, end) >= 0 or begin + len(first) == end)):
            return word[:begin] + _HIDDEN + word[end:]
        if at in first:  # a user or a token without a colon; the last @ belongs to the path
            return word[:begin] + _HIDDEN + word[begin + first.rindex(at) :]
        if not is_of_the_hub:
            return word  # no user: the @ belongs to the path
        begin = word.find(slashes, begin, end)
    return word


def _without_bare_user(word: str) -> str:
    """Hide ``me:pw`` in ``http:/me:pw@host``, as a path library leaves it, and in ``me:pw@host:80`` without a scheme.

    An e-mail address, a time, a file's line or an image's digest with a colon before its ``@`` stays.
    """
    head, _, tail = word.rpartition("@")
    scheme, slash, rest = head.partition(":/")
    if slash:
        return f"{scheme}:/{_HIDDEN}@{tail}" if ":" in rest else word
    if not _HOST_AND_PORT.match(tail) and not _HOST_AND_PATH.match(tail):
        return word
    begin, colon = 0, head.find(":")
    while colon >= 0:
        named = head[begin:colon]
        user = _OPENERS.split(named)[-1]
        if _USER.fullmatch(user):
            return word if _is_number_of(user, head[colon + 1 :]) else f"{head[: colon - len(user)]}{_HIDDEN}@{tail}"
        begin, colon = colon + 1, head.find(":", colon + 1)
    return word


def _is_number_of(user: str, secret: str) -> bool:
    """Return whether ``user:secret`` is a time, a file's line, a host's port or a device's number, or has no secret."""
    return (secret.replace(":", "").isdigit() and (len(secret) <= 2 or user.isdigit() or "." in user)) or not secret


def _without_query_secrets(word: str) -> str:
    address, *parts = re.split("([?&])", word)
    shown = [address]
    for part in parts:
        name, equals, value = part.partition("=")
        match = _VALUE.match(value) if equals and _is_secret(name) else None
        if match and match[0]:
            part = f"{name}={_HIDDEN}{value[match.end() :]}"
        shown.append(part)
    return "".join(shown)


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _secrets_of_environment() -> list[str]:
    """Return the passwords and tokens in the environment's variables, the longest first.

    Libraries quote addresses in parts, so the parts of a password between ``/``, ``@``, ``:``, ``?``, ``#`` and spaces
    count.
    """
    found = {os.environ[name] for name in _SECRET_VARIABLES if os.environ.get(name)}
    for name, value in os.environ.items():
        is_address = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value) or name.lower().endswith("_proxy")
        if not is_address or "@" not in value or value.startswith("hf:"):
            continue
        address = value if "//" in value else f"//{value}"
        before_at = address[address.index("//") + 2 :].rpartition("@")[0]
        password = before_at.partition(":")[2]
        for form in {password, unquote(password)}:
            found |= {form, *re.split(r"[/@:?#\s]", form)}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)
