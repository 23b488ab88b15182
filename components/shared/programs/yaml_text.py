"""YAML and JSON text as values; a key that appears twice in a mapping is an error."""

import json
from typing import Any

import yaml

_MOST_VALUES = 1_000_000
"""Values in a file, each alias counted in full: nine lines of aliases of aliases hold 387 million."""
_MOST_MERGED = 100_000
"""Pairs that merges (<<) copy: 40 lines of mappings that each merge the last one twice copy a million million."""
_MERGE = "tag:yaml.org,2002:merge"


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
    return value


class _Size:
    """How many values a document makes, and how many pairs its merges copy, found on the nodes before any is made."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int] | None] = {}
        self._copied = 0

    def check(self, node: yaml.Node) -> tuple[int, int]:
        """Return the values in ``node`` and its pairs (0 if it is no mapping).

        Raises:
            yaml.YAMLError: they are too many, or it holds itself.
        """
        if id(node) in self._known:
            return self._bounded(*(self._known[id(node)] or (_MOST_VALUES + 1, 0)))
        self._known[id(node)] = None  # being counted: whoever comes here now is inside of it
        values, pairs, copied = 1, 0, 0
        if isinstance(node, yaml.SequenceNode):
            values += sum(self.check(each)[0] for each in node.value)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.tag == _MERGE:
                    merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                    sizes = [self.check(each) for each in merged]
                    values, copied = values + sum(size[0] for size in sizes), copied + sum(size[1] for size in sizes)
                else:
                    values, pairs = values + self.check(value)[0] + self.check(key)[0] - 1, pairs + 1
        self._copied += copied
        self._known[id(node)] = found = self._bounded(values, pairs + copied)
        return found

    def _bounded(self, values: int, pairs: int) -> tuple[int, int]:
        if values > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases make more than {_MOST_VALUES:,} values")
        if self._copied > _MOST_MERGED:
            raise yaml.YAMLError(f"its merged mappings (<<) make more than {_MOST_MERGED:,} pairs")
        return values, pairs


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a duplicate key")
    return values


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_document(self, node: Any) -> Any:
        """Make the document's values; their number is checked first."""
        _Size().check(node)
        return super().construct_document(node)

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; checked here because later the keys of merged mappings (<<) are mixed in."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], Any] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"the key {key.value!r} is there twice, on {lines}: keep one")
        return node
