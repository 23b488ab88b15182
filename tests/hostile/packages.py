"""Hostile packages: zips as strangers send them to ``read`` and to the service."""

import io
import json
import zipfile
from collections.abc import Callable

from tests.hostile.hostile_input import HostileInput

_SETTINGS = "reader/inference_config.json"
_VALID = json.dumps({"base_model": "tiny-base", "revision": None, "base_in_package": False})


def _zip(*entries: tuple[str | zipfile.ZipInfo, str | bytes]) -> Callable[[], bytes]:
    def made() -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                archive.writestr(name, content, zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    return made


def _with_settings(content: str) -> Callable[[], bytes]:
    return _zip((_SETTINGS, content))


def _broken_deflate() -> bytes:
    content = bytearray(_zip((_SETTINGS, _VALID * 20))())
    start = content.index(_SETTINGS.encode()) + len(_SETTINGS)
    content[start : start + 4] = bytes(255 - one for one in content[start : start + 4])
    return bytes(content)


def _link() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("reader/passwd")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return link


def _encrypted() -> bytes:
    content = bytearray(_zip(_VALID_ENTRY)())
    content[6] |= 1  # the general purpose flag in the entry's header, and in the directory's at the end
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _inside(base: str) -> Callable[[], bytes]:
    return _with_settings(json.dumps({"base_in_package": True, "base_model": base}))


_VALID_ENTRY = (_SETTINGS, _VALID)
_SMALL_BOMBS = [(f"reader/{number}", bytes(9_000_000)) for number in range(8)]
PACKAGES = [
    HostileInput("packages", name, how, made, expected)
    for name, how, made, expected in (
        ("valid", "a package", _zip(_VALID_ENTRY), "kept 1"),
        ("cut", "the first half of a zip", lambda: _zip(_VALID_ENTRY)()[:80], "refused"),
        ("deflate", "a broken stream", _broken_deflate, "refused"),
        ("encrypted", "the mark of an encrypted entry", _encrypted, "refused"),
        ("no settings", "a zip of something else", _zip(("reader/README.md", "# reader")), "refused"),
        ("a list", "settings that are a list", _with_settings("[1]"), "refused"),
        ("deep JSON", "settings of 20,000 nested lists", _with_settings("[" * 20_000), "refused"),
        ("half an emoji", "a lone surrogate in the settings", _with_settings('{"base_model": "\\ud83d"}'), "refused"),
        ("no base", "a base in the package without a name", _with_settings('{"base_in_package": true}'), "refused"),
        ("base above", "a base outside of the package", _inside("../../../etc"), "refused"),
        ("base elsewhere", "a base at an absolute path", _inside("/etc"), "refused"),
        ("base is a number", "a base that is no text", _with_settings('{"base_model": 7}'), "refused"),
        ("up", "a name that leads out", _zip(_VALID_ENTRY, ("reader/../../x", "x")), "refused"),
        ("root", "a name from the root, behind the top folder", _zip(_VALID_ENTRY, ("reader//etc/x", "x")), "refused"),
        ("drive", "a drive's letter", _zip(_VALID_ENTRY, ("C:/x", "x")), "refused"),
        ("backslash", "a name that leads out on another system", _zip(_VALID_ENTRY, ("reader\\..\\x", "x")), "refused"),
        ("link", "a link", _zip(_VALID_ENTRY, (_link(), "/etc/passwd")), "refused"),
        ("folder and file", "a file that is a folder too", _zip(_VALID_ENTRY, (f"{_SETTINGS}/x", "x")), "refused"),
        ("bomb", "20 MB of zeros in 20 kB", _zip(_VALID_ENTRY, ("reader/x", bytes(20_000_000))), "refused"),
        ("many bombs", "small bombs, 72 MB together", _zip(_VALID_ENTRY, *_SMALL_BOMBS), "refused"),
        ("many", "10,001 entries", _zip(*((f"reader/{number}", "") for number in range(10_001))), "refused"),
    )
]
