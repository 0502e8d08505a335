"""The house style, counted over the package: shapes, units, late imports, cloned YAML."""

import ast
import difflib
import re
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARRAY = re.compile(r"\b(Tensor|ndarray)\b")
SHAPED = re.compile(r"\[[^\[\]]*(Tensor|ndarray), *['\"]")
BARE = re.compile(r"(?<![\[\w.])(np\.)?(Tensor|ndarray)\b(?!, *['\"])")
UNIT = re.compile(
    r"\b(met(re|er)s?|mm|pixels?|px|radians?|degrees?|seconds?|Hz|fps|frames?|world|canonical|rest"
    r"|probabilit\w+|share|dB|logits?|uv|texels?)\b|\[(0|-1), ?(1|255)\]"
)
UNIT_NAME = re.compile(r"_(m|mm|px|rad|deg|s|fps|hz)\b")


def functions(tree: ast.Module):
    """Public functions and methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node)
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name == "__call__"
        ):
            yield node


def trees():
    for path in sorted((ROOT / "persona").rglob("*.py")):
        source = path.read_text()
        yield path.relative_to(ROOT), source.splitlines(), ast.parse(source)


def signature(function: ast.FunctionDef) -> str:
    """Annotations of arguments and result."""
    nodes = [a.annotation for a in (*function.args.args, *function.args.kwonlyargs)]
    return " ".join(ast.unparse(n) for n in (*nodes, function.returns) if n is not None)


def test_functions_of_tensors_state_shapes_and_units():
    tensor = [f for _, _, tree in trees() for f in functions(tree) if ARRAY.search(signature(f))]
    assert len(tensor) > 400
    shaped = [f for f in tensor if SHAPED.search(s := signature(f)) and not BARE.search(s)]
    assert len(shaped) >= 0.9 * len(tensor), [f.name for f in tensor if f not in shaped]
    names = [" ".join(a.arg for a in f.args.args) for f in tensor]
    told = [
        f for f, n in zip(tensor, names, strict=True)
        if UNIT.search(ast.get_docstring(f) or "") or UNIT_NAME.search(n)
    ]  # fmt: skip
    assert len(told) >= 0.4 * len(tensor)


def test_public_functions_are_described():
    public = [f for _, _, tree in trees() for f in functions(tree)]
    described = [f for f in public if ast.get_docstring(f)]
    assert len(described) >= 0.95 * len(public), [f.name for f in public if f not in described]


def test_imports_inside_functions_say_why():
    """Except kernels, which need CUDA builds of torch, and imports in a ``try``."""
    unexplained = []
    for path, lines, tree in trees():
        tried = {n for t in ast.walk(tree) if isinstance(t, ast.Try) for n in ast.walk(t)}
        for function in (f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)):
            for node in ast.walk(function):
                if not isinstance(node, ast.Import | ast.ImportFrom) or node in tried:
                    continue
                kernel = re.search(r"_(triton|cuda)\b", lines[node.lineno - 1])
                above = "".join(lines[max(0, node.lineno - 6) : node.end_lineno])
                if not kernel and "#" not in above:
                    unexplained.append(f"{path}:{node.lineno}")
    assert not unexplained


def test_configurations_are_not_clones():
    """Clones are two files of one group that share 80 % of their lines; these belong in `defaults`.

    At most 5 % of the files may be clones.
    """
    files = {}
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        files[path] = [line for line in lines if line and not line.startswith("#")]
    clones = set()
    for (a, one), (b, two) in combinations(((p, x) for p, x in files.items() if len(x) >= 4), 2):
        if a.parent == b.parent and difflib.SequenceMatcher(None, one, two).ratio() >= 0.8:
            clones |= {a, b}
    assert len(clones) <= 0.05 * len(files), sorted(str(c.relative_to(ROOT)) for c in clones)


def test_isinstance_asks_for_no_tensors_of_a_protocol():
    """A protocol of ``isinstance`` has no tensor members.

    Python 3.12 looks members up without ``nn.Module.__getattr__``, which finds parameters.
    """
    asked = {}
    for path, _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and "runtime_checkable" in map(
                ast.unparse, node.decorator_list
            ):
                fields = [m for m in node.body if isinstance(m, ast.AnnAssign)]
                asked[path, node.name] = [
                    ast.unparse(m.target) for m in fields if ARRAY.search(ast.unparse(m.annotation))
                ]
    assert len(asked) > 5
    assert not {place: names for place, names in asked.items() if names}
