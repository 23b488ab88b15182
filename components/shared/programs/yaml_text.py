"""YAML and JSON text as values; a key that appears twice in a mapping is an error."""

import json
from typing import Any

import yaml

_MOST_VALUES = 1_000_000
"""Values in a file, each alias counted in full: nine lines of aliases of aliases hold 387 million."""


def parsed_yaml(text: str) -> Any:
    """Return what YAML or JSON ``text`` holds.

    JSON is parsed as JSON: PyYAML reads the two halves of an escaped 4-byte character as two characters.

    Raises:
        ValueError: the text is neither, its aliases make more than a million values, or a mapping has a key twice; the
            message names both lines.
    """
    if text.lstrip().startswith(("{", "[", '"')):
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            pass  # YAML in braces, or a duplicate key, whose lines the YAML loader names
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_size(value)
    return value


def _check_size(value: Any) -> None:
    waiting, seen = [value], 0
    while waiting:
        inner = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ValueError(f"its aliases make more than {_MOST_VALUES:,} values")
        if isinstance(inner, dict):
            waiting.extend(inner.values())
        elif isinstance(inner, list):
            waiting.extend(inner)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a duplicate key")
    return values


class _UniqueKeyLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; checked here because later the keys of merged mappings (<<) are mixed in."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], Any] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"the key {key.value!r} is there twice, on {lines}: keep one")
        return node
