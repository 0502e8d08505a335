"""The table of a multirun, from made-up jobs and from a real sweep."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from persona.benchmark.multirun import read_multirun, write_multirun_report
from persona.commands.results import write_metrics
from persona.data.io import read_image
from persona.errors import UserError

ROOT = Path(__file__).parents[2]


def job(folder: Path, number: int, exp: str, seed: int, psnr: float | None) -> None:
    """Writes the files that train.py -m leaves of a job; it has failed if ``psnr`` is None."""
    place = folder / str(number)
    (place / ".hydra").mkdir(parents=True)
    (place / ".hydra/overrides.yaml").write_text(f"- +exp={exp}\n- seed={seed}\n- name=x\n")
    (place / "config.yaml").write_text(f"seed: {seed}\n")
    if psnr is not None:
        values = {"test/fg_psnr": psnr, "test/mask_iou": 0.9, "init/fg_psnr": 1.0}
        write_metrics(place / "metrics.json", values)


@pytest.fixture
def multirun(tmp_path: Path) -> Path:
    """Three settings, two of them with two seeds; two jobs failed. Numbers have 1 or 2 digits."""
    job(tmp_path, 2, "[demo]", 0, 20.0)
    job(tmp_path, 10, "[demo]", 1, 22.0)
    job(tmp_path, 3, "[demo,abl/no_seam]", 0, 19.0)
    job(tmp_path, 11, "[demo,abl/no_seam]", 1, None)
    job(tmp_path, 4, "[demo,abl/none_ends]", 0, None)
    return tmp_path


def test_jobs_that_differ_by_seed_make_a_row(multirun):
    demo, no_seam, none_ends = read_multirun(multirun)
    assert (demo.name, demo.seeds, demo.failed) == ("+exp=[demo]", (0, 1), 0)
    assert demo.values["fg_psnr"] == [20.0, 22.0]
    assert "init/fg_psnr" not in demo.values
    assert (no_seam.seeds, no_seam.failed) == ((0,), 1)
    assert (none_ends.seeds, none_ends.failed, none_ends.values) == ((), 1, {})


def test_table_and_plot(multirun):
    text = write_multirun_report(multirun, read_multirun(multirun))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0] == ["setting", "seeds", "fg PSNR ↑", "mask IoU ↑"]
    assert rows[2] == ["demo", "0, 1", "21.00 ± 1.41", "0.9000 ± 0.0000"]
    assert rows[3] == ["demo, no_seam", "0 (1 failed)", "19.00", "0.9000"]
    assert rows[4] == ["demo, none_ends", "(1 failed)", "", ""]
    table = list(csv.DictReader((multirun / "ablation.csv").open()))
    assert table[0] == {"setting": "+exp=[demo]", "metric": "fg_psnr", "mean": "21.0",
                        "std": "1.4142135623730951", "seeds": "0 1"}  # fmt: skip
    picture = read_image(multirun / "ablation.png")
    assert picture.std() > 5


def test_infinite_figures_survive(tmp_path):
    job(tmp_path, 0, "[demo]", 0, float("inf"))
    (setting,) = read_multirun(tmp_path)
    assert setting.values["fg_psnr"] == [float("inf")]
    assert "| inf |" in write_multirun_report(tmp_path, [setting])


@pytest.mark.slow
def test_no_multirun(tmp_path):
    with pytest.raises(UserError, match="holds no jobs of a multirun"):
        read_multirun(tmp_path / "absent")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/multirun.py"), str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.slow
def test_one_command_sweeps_and_one_makes_the_table(command, tmp_path):
    """The settings come from a sweep file, the seeds from the command line."""
    sweep = tmp_path / "more/sweep/two.yaml"
    sweep.parent.mkdir(parents=True)
    whole = (ROOT / "conf/sweep/ablation.yaml").read_text()
    head = whole[: whole.index("[demo,abl/no_balanced_sampling]")].rstrip().removesuffix(",")
    sweep.write_text(head + "\n")
    words = [w for w in command("trainer.max_steps=2") if w != "+exp=demo"]
    folder = tmp_path / "sweep"
    done = subprocess.run(
        [*words[:2], "--config-dir", str(tmp_path / "more"), "-m", *words[2:], "+sweep=two",
         "seed=0,1", f"hydra.sweep.dir={folder}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    demo, static = read_multirun(folder)
    assert demo.seeds == static.seeds == (0, 1)
    assert len(demo.values["fg_psnr"]) == 2
