"""Imports point from higher to lower layers, from benchmark to types, without a cycle."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "persona"
LAYERS = {
    "errors": 0, "types": 0, "modules": 1, "data": 2, "runtime": 3, "cli": 3, "systems": 4,
    "commands": 5, "benchmark": 6,
}  # fmt: skip


def imports() -> dict[str, set[str]]:
    """Module name to the persona modules it imports at any level."""
    graph = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parent = name.split(".")[: -node.level or None] if node.level else []
                module = ".".join([*parent, *(node.module or "").split(".")]).strip(".")
                found |= {imported(module, alias.name) for alias in node.names}
        found = {other for other in found if other.split(".")[0] == "persona"}
        graph[name.removesuffix(".__init__")] = found
    return graph


def imported(module: str, name: str) -> str:
    """``from package import submodule`` imports the submodule, anything else the module."""
    submodule = ROOT.parent / Path(*module.split("."), name)
    found = submodule.with_suffix(".py").is_file() or (submodule / "__init__.py").is_file()
    return f"{module}.{name}" if found else module


def layer(module: str) -> int:
    return LAYERS[module.split(".")[1]]


def test_imports_point_down():
    for module, found in imports().items():
        if module == "persona":
            assert not found
            continue
        for other in found:
            assert layer(other) <= layer(module), f"{module} imports {other}"


def test_no_cycles():
    graph, done, path = imports(), set(), []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        path.append(module)
        for other in graph.get(module, ()):
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_files_are_small():
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path
