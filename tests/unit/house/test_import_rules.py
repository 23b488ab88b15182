"""The house rules that a reader relies on: who may import whom, what files are called, how long they are."""

import ast
from pathlib import Path

import networkx
import pytest

from docs.draw_architecture import imports_of, module_graph, package_parts, room_graph

ROOT = Path(__file__).parents[3]
FILES = sorted(path for top in ("components", "pipelines") for path in (ROOT / top).rglob("*.py"))
STEPS = sorted(
    path.name for path in (ROOT / "components").iterdir() if path.name != "shared" and (path / "__init__.py").is_file()
)
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 60
MOST_MODULES = 15


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
    inside = [path for path in FILES if package_parts(path)[0] == "components" and len(package_parts(path)) > 1]
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


def test_no_modules_and_no_rooms_import_each_other_in_a_circle() -> None:
    for graph in (module_graph(), room_graph()):
        assert len(graph) > 40
        assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_a_room_never_imports_its_step() -> None:
    # The step's root (its __main__, a worker's main) may; a room below it may not.
    graph = module_graph()
    steps = [name for name in graph if name.startswith("components.") and name.endswith(".step")]
    assert len(steps) >= 6
    importers = {importer for step in steps for importer in graph.predecessors(step)}
    assert sorted(name for name in importers if name.startswith("components.") and name.count(".") > 2) == []


def test_no_folder_has_more_modules_than_a_reader_keeps_in_mind() -> None:
    folders = {path.parent for path in FILES}
    modules = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {str(folder): len(found) for folder, found in modules.items() if len(found) > MOST_MODULES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{path.relative_to(ROOT)}: {node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    assert {name: lines for name, lines in found.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_each_room_says_what_lives_there() -> None:
    rooms = {path.parent for path in FILES if path.parent.name != "tiny_base_recipe"}
    without = [
        str(room.relative_to(ROOT))
        for room in rooms
        if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    ]
    assert without == []
