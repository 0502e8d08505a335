import subprocess
import sys
from pathlib import Path

import pytest

import persona
from persona.data.ffmpeg import ffmpeg_package, ffmpeg_program
from persona.errors import UserError


def test_the_program_runs():
    shown = subprocess.run([ffmpeg_program(), "-version"], capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("ffmpeg version")


def test_a_machine_without_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="turntable_frames=0"):
        ffmpeg_package()


def test_nothing_else_imports_it():
    """A module that imported it at its top would stop training on machines that lack it."""
    root = Path(persona.__file__).parent
    found = [p.name for p in root.rglob("*.py") if "import imageio_ffmpeg" in p.read_text()]
    found += [p.name for p in root.rglob("*.py") if "from imageio_ffmpeg" in p.read_text()]
    assert found == ["ffmpeg.py"]
