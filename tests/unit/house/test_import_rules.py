"""The house rules that a reader relies on: who may import whom, what files are called, how long they are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted(path for top in ("components", "pipelines") for path in (ROOT / top).rglob("*.py"))
STEPS = sorted(
    path.name for path in (ROOT / "components").iterdir() if path.name != "shared" and (path / "__init__.py").is_file()
)
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
MOST_LINES = 300


def module_of(path: Path) -> list[str]:
    """Return the parts of the package that ``path`` belongs to: ``components/train/step.py`` is components.train."""
    return list(path.relative_to(ROOT).parent.parts)


def imports_of(path: Path, source: str) -> set[str]:
    """Return the absolute names of all modules that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module_of(path)
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _is_import_call(node) and isinstance(node.args[0], ast.Constant):
            found.add(str(node.args[0].value))
    return found


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__") and bool(node.args)


def offences(path: Path, source: str) -> list[str]:
    """Return the imports of a file below ``components`` that its place does not allow."""
    owner = path.relative_to(ROOT).parts[1]
    own = f"components.{owner}"
    allowed = {own, "components.shared"}
    return sorted(
        name
        for name in imports_of(path, source)
        if name.split(".")[0] in ("pipelines", "kfp")
        or (name.startswith("components.") and ".".join(name.split(".")[:2]) not in allowed)
    )


def test_there_is_something_to_check() -> None:
    assert {"prepare", "train", "evaluate", "benchmark", "export"} <= set(STEPS)
    assert len(FILES) > 60


def test_shared_imports_no_step_and_a_step_imports_shared_alone() -> None:
    # A file directly in components/ (its __init__) belongs to no step and has nothing to import.
    inside = [path for path in FILES if path.relative_to(ROOT).parts[0] == "components" and len(module_of(path)) > 1]
    found = {str(path.relative_to(ROOT)): offences(path, path.read_text()) for path in inside}
    assert {name: imports for name, imports in found.items() if imports} == {}


@pytest.mark.parametrize(
    ("place", "line", "offence"),
    [
        ("components/shared/x.py", "import components.train.step", "components.train.step"),
        ("components/shared/x.py", "from components import evaluate", "components.evaluate"),
        ("components/train/x.py", "from ..prepare import config", "components.prepare"),
        (
            "components/train/x.py",
            "def run():\n    from pipelines.settings.pipeline_config import x",
            "pipelines.settings.pipeline_config",
        ),
        ("components/train/backends/x.py", "import kfp.dsl as dsl", "kfp.dsl"),
        ("components/train/x.py", "import_module('components.export')", "components.export"),
    ],
)
def test_the_check_sees_each_way_to_break_the_rule(place: str, line: str, offence: str) -> None:
    assert offence in offences(ROOT / place, line)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("components/train/x.py", "from components.shared.errors import UserError"),
        ("components/train/backends/x.py", "from ..config import TrainConfig"),
        ("components/shared/x.py", "from . import errors\nimport json"),
    ],
)
def test_the_check_lets_the_allowed_ones_pass(place: str, line: str) -> None:
    assert offences(ROOT / place, line) == []


def test_no_file_has_a_vague_name() -> None:
    assert [str(path.relative_to(ROOT)) for path in FILES if path.stem in VAGUE_NAMES] == []


def test_no_file_is_longer_than_a_reader_bears() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_each_step_has_its_three_files() -> None:
    for step in STEPS:
        names = {path.name for path in (ROOT / "components" / step).iterdir()}
        assert {"config.py", "step.py", "__main__.py"} <= names, step
