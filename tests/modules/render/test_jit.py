"""`make setup` compiles every kernel that a training runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import importlib, runpy, sys
from numba.core.dispatcher import Dispatcher
for part in runpy.run_path(sys.argv[1])["PARTS"]:
    part()
for name in sys.argv[2:]:
    kernels = [v for v in vars(importlib.import_module(name)).values() if isinstance(v, Dispatcher)]
    if not any(kernel.signatures for kernel in kernels):
        print(name)
"""


@pytest.mark.slow
def test_every_module_of_kernels_is_compiled_by_the_set_up():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "persona").rglob("*.py")) if "\n@kernel(" in path.read_text()
    ]  # fmt: skip
    assert len(names) > 8
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "scripts/compile_kernels.py"), *names],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()
