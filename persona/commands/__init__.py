"""The command ``persona``: every entry point of the repository, from an installed package too.

``persona train +exp=demo`` is ``python train.py +exp=demo``, ``persona create photo=P name=N`` is
``python scripts/create.py photo=P name=N``, and so on.
"""

import runpy
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# A wheel holds conf, scripts and benchmarks in the package; a clone beside it.
HOME = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
"""The folder of conf, scripts and benchmarks."""
SCRIPTS = {
    "train": "scripts/train.py",
    "create": "scripts/create.py",
    "create-many": "scripts/create_many.py",
    "preprocess": "scripts/preprocess.py",
    "animate": "scripts/animate.py",
    "track": "scripts/track.py",
    "export": "scripts/export.py",
    "view": "scripts/view.py",
    "evaluate": "scripts/evaluate.py",
    "sweep": "scripts/sweep.py",
    "edit": "scripts/edit.py",
    "interpolate": "scripts/interpolate.py",
    "preprocess-head": "scripts/preprocess_head.py",
    "create-head": "scripts/create_head.py",
    "check-data": "scripts/check_data.py",
    "maps": "scripts/maps.py",
    "weights": "scripts/weights.py",
    "people": "scripts/people.py",
    "benchmark": "benchmarks/run.py",
    "benchmark-photo": "benchmarks/photo.py",
    "benchmark-track": "benchmarks/track.py",
    "benchmark-heads": "benchmarks/heads.py",
    "benchmark-quality": "benchmarks/time_to_quality.py",
}
"""Name to script."""


def main() -> None:
    """Runs the script that the first argument names, with the others."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: persona {{{','.join(SCRIPTS)}}} [OPTION=VALUE ...]   (--help after a name)")
        return
    if name not in SCRIPTS:
        sys.exit(f"error: persona {name}: no such command; give one of {', '.join(SCRIPTS)}")
    script = HOME / SCRIPTS[name]
    # Lightning restarts this command line once for each further GPU.
    sys.argv = [str(script), *sys.argv[2:]]
    runpy.run_path(str(script), run_name="__main__")
