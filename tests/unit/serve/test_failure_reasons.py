"""Each reason that the service's code gives is known, and docs/observability.md tells what it means."""

import ast
from collections.abc import Iterator
from pathlib import Path

from components.serve.documents.page_opener import _CODES
from components.serve.http.errors import _TYPES
from components.serve.observability.failure_reasons import FAILURE_REASONS

ROOT = Path(__file__).parents[3]


def reasons_of(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    if name == "DocumentError":
        given += call.args[1:2]
    elif name == "failed":
        given += call.args[:1]
    elif name == "setdefault" and [ast.unparse(one) for one in call.args[:1]] == ["'failure'"]:
        given += call.args[1:2]
    for value in given:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def assigned(node: ast.Assign) -> Iterator[str]:
    """Yield what is assigned to a request's state: ``state["failure"] = ...`` or ``state.failure = ...``."""
    names = {getattr(target, "attr", ast.unparse(getattr(target, "slice", target))) for target in node.targets}
    if names & {"failure", "'failure'"} and isinstance(node.value, ast.Constant):
        yield node.value.value


def test_each_reason_is_known_and_told() -> None:
    found = {*_TYPES.values(), *_CODES.values(), "server_error"}
    for path in (ROOT / "components" / "serve").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.update(reasons_of(node))
            elif isinstance(node, ast.Assign):
                found.update(assigned(node))
    assert found == FAILURE_REASONS.keys()
    told = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    for reason, meaning in FAILURE_REASONS.items():
        assert f"| `{reason}` | {meaning} |" in told
