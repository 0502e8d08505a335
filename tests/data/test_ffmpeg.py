import subprocess
import sys

import pytest

from persona.data.ffmpeg import ffmpeg_package, ffmpeg_program
from persona.errors import UserError


def test_the_program_runs():
    shown = subprocess.run([ffmpeg_program(), "-version"], capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("ffmpeg version")


def test_a_machine_without_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="turntable_frames=0"):
        ffmpeg_package()


def test_training_does_not_ask_for_it():
    code = (
        "import sys; sys.modules['imageio_ffmpeg'] = None;"
        "import persona.commands.experiment, persona.commands.create, persona.commands.train_lhm"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
