"""The command ``persona``, in the repository and from a wheel in an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from persona import commands

ROOT = Path(__file__).parents[1]
PERSONA = "import sys; from persona.commands import main; sys.argv[0] = 'persona'; main()"


def persona(*words, **options):
    command = [sys.executable, "-c", PERSONA, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_every_command_is_a_script_of_the_repository():
    assert commands.HOME == ROOT
    for script in commands.SCRIPTS.values():
        assert (ROOT / script).is_file(), script


def test_a_command_takes_options_and_one_that_is_none_names_those_that_are(monkeypatch, capsys):
    done = persona("train", "+exp=demo", "seed=7", "--cfg", "job")
    assert done.returncode == 0 and "seed: 7" in done.stdout
    monkeypatch.setattr(sys, "argv", ["persona", "trian"])
    with pytest.raises(SystemExit, match=r"error: persona trian: no such command; .*train"):
        commands.main()
    monkeypatch.setattr(sys, "argv", ["persona"])
    commands.main()
    assert "check-data" in capsys.readouterr().out


@pytest.mark.slow
def test_a_wheel_runs_from_an_empty_folder(tmp_path):
    wheels, site, empty = (tmp_path / name for name in ("wheels", "site", "empty"))
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as file:
        packed = {f"persona/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
        assert packed <= set(file.namelist())
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = persona("train", "+exp=demo", "--cfg", "job", cwd=empty, env=environment)
    assert done.returncode == 0 and "name: synthetic" in done.stdout, done.stderr
    where = "import persona; print(persona.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(site)), "the wheel's package was not the one that ran"
