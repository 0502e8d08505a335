"""The table of rings: every run composes, and differences are of paired frames."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[2]


@pytest.fixture
def anigs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import anigs

    yield anigs
    for name in ("anigs", "speed"):
        sys.modules.pop(name, None)


def config(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("anigs_rings", overrides=list(overrides))


def test_finished_runs_are_read_and_others_composed(anigs, tmp_path, monkeypatch):
    made = config("size=gpu")
    (tmp_path / "frames.csv").write_text("frame,fg_psnr\ntest/0,20.5\ntest/1,21.0\n")
    rows = anigs.run(made, "mid", "averaging", 1, tmp_path)
    assert rows == [{"fg_psnr": 20.5}, {"fg_psnr": 21.0}]
    chosen = {}

    def train(settings, folder):
        chosen[folder.name] = settings
        folder.mkdir()
        (folder / "frames.csv").write_text("frame,fg_psnr\ntest/0,1.0\n")

    monkeypatch.setattr(anigs, "train", train)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for method in made.methods:
            anigs.run(made, "high", method, 2, tmp_path / method)
    rings = [settings.data.source.config for settings in chosen.values()]
    assert len(rings) == 3 and all(ring == rings[0] for ring in rings)
    assert rings[0].seed == 2 and rings[0].warp_m == 0.04 and rings[0].height == 512
    fields = {name: settings.avatar.get("view_field") for name, settings in chosen.items()}
    assert fields == {"AniGS-style": True, "averaging": False, "gaussians_lbs": None}
    sizes = {(s.avatar.levels, s.avatar.edge_m) for s in chosen.values()}
    assert len(sizes) == 1


def test_differences_are_of_paired_frames_of_their_part(anigs):
    def rows(*values):
        return [{"fg_psnr": value} for value in values]

    ours, theirs = rows(20.0, 30.0, 5.0), rows(19.0, 29.0, 5.0)
    runs = {"high": {"ours": {0: ours}, "theirs": {0: theirs}}}
    lines = anigs.table(runs, "views", ["fg_psnr"], held_out=2)
    assert lines[1][:3] == ["high", "1", "ours"] and lines[1][3].startswith("25.000 [")
    assert lines[3] == ["high", "1", "ours less theirs", "+1.000 [+1.000, +1.000]"]
    poses = anigs.table(runs, "poses", ["fg_psnr"], held_out=2)
    assert poses[3][3] == "+0.000 [+0.000, +0.000]"
