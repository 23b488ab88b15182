"""The picture in ``docs/architecture.md``, drawn from the imports: ``python docs/draw_architecture.py`` rewrites it.

A node is a room: a folder of modules. Each file at a step's root is a node of its own, since ``config`` lies below the
step's rooms and ``step`` above them. An arrow says "imports": between the rooms of one
package, and between packages. Arrows that a longer path implies are left out (the transitive reduction, networkx), so
that the picture shows the order and not every import.
``tests/unit/house/test_import_rules.py`` uses the same graph to keep the rules.
"""

import ast
import re
import sys
from pathlib import Path

import networkx

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
_PLACE = re.compile(r"((?:components|pipelines)(?:\.\w+)+):\w+")
"""``module:name``: the place of a command, which is imported when it is invoked."""
BEGIN, END = "<!-- drawn by docs/draw_architecture.py: begin -->", "<!-- drawn: end -->"


def modules() -> dict[str, Path]:
    """Return each module of the product by its dotted name; a package goes by its folder's name."""
    found = {}
    for path in sorted(path for top in ("components", "pipelines") for path in (ROOT / top).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package_parts(path: Path) -> list[str]:
    """Return the parts of the package that ``path`` belongs to: ``components/train/step.py`` is components.train."""
    return list(path.relative_to(ROOT).parent.parts)


def imports_of(path: Path, source: str) -> set[str]:
    """Return the absolute names of all modules that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = package_parts(path)
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _is_import_call(node) and isinstance(node.args[0], ast.Constant):
            found.add(str(node.args[0].value))
        elif isinstance(node, ast.Constant) and (place := _PLACE.fullmatch(str(node.value))):
            found.add(place[1])
    return found


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__") and bool(node.args)


def module_graph() -> networkx.DiGraph:
    """Return the graph of modules: an edge from each module to every one that it imports."""
    known = modules()
    graph = networkx.DiGraph()
    graph.add_nodes_from(known)
    for name, path in known.items():
        found = imports_of(path, path.read_text()) & known.keys()
        # `from a.b import c` names a.b and a.b.c: where c is a module, that is what is imported.
        inner = {to.rpartition(".")[0] for to in found}
        graph.add_edges_from((name, to) for to in found if to not in inner)
    return graph


def room_of(name: str, path: Path) -> str:
    """Return the room of a module: its folder, or the module itself at a step's root and at that of ``pipelines``."""
    folder = path.parent.relative_to(ROOT).parts
    at_a_root = (len(folder) == 2 and folder[0] == "components" and folder[1] != "shared") or folder == ("pipelines",)
    return name if at_a_root else ".".join(folder)


def room_graph() -> networkx.DiGraph:
    """Return the graph of rooms; ``weight`` counts the imports behind an edge."""
    known = modules()
    graph = networkx.DiGraph()
    for start, to in module_graph().edges:
        rooms = room_of(start, known[start]), room_of(to, known[to])
        if rooms[0] != rooms[1]:
            weight = graph.edges[rooms]["weight"] + 1 if graph.has_edge(*rooms) else 1
            graph.add_edge(*rooms, weight=weight)
    return graph


def package_of(room: str) -> str:
    """Return the box that a room stands in: a step, ``components.shared``, or ``pipelines``."""
    parts = room.split(".")
    return ".".join(parts[:2]) if parts[0] == "components" else parts[0]


def mermaid() -> str:
    """Return the picture as a Mermaid flowchart: a box for each package, and the order of the rooms inside.

    Raises:
        networkx.NetworkXError: rooms, or packages, import each other in a circle.
    """
    rooms = room_graph()
    rooms.remove_nodes_from([room for room in rooms if room.endswith(".__main__")])
    packages = networkx.DiGraph((package_of(start), package_of(to)) for start, to in rooms.edges)
    packages.remove_edges_from(list(networkx.selfloop_edges(packages)))
    lines = ["flowchart LR"]
    for package in sorted(packages):
        inside = rooms.subgraph([room for room in rooms if package_of(room) == package])
        lines.append(f'  subgraph {_identifier(package, "box")}["{package.replace(".", "/")}"]')
        lines += [f'    {_identifier(room)}["{room.split(".")[-1]}"]' for room in sorted(inside)]
        lines += _arrows(inside, "    ", "room")
        lines.append("  end")
    return "\n".join([*lines, *_arrows(packages, "  ", "box")])


def _arrows(graph: networkx.DiGraph, indent: str, kind: str) -> list[str]:
    edges = sorted(networkx.transitive_reduction(graph).edges)
    return [f"{indent}{_identifier(start, kind)} --> {_identifier(to, kind)}" for start, to in edges]


def _identifier(name: str, kind: str = "room") -> str:
    return f"{kind}_{name.replace('.', '_')}"


def page_with_picture(page: str) -> str:
    """Return the page's text with today's picture between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n```mermaid\n{mermaid()}\n```\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_picture(PAGE.read_text()))
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} drawn\n")
