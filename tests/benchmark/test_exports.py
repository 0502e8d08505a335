"""The table of export formats: it draws what other readers find in the files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from persona.benchmark import exports
from persona.commands.avatar_export import AvatarExport, Settings
from persona.data.motion.load import load_motion
from persona.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
pytest.importorskip("plyfile", reason="needs persona[export]")


@pytest.fixture
def exporter(seen_system):
    return AvatarExport(seen_system, load_motion("squat", seen_system.body)[:3], Settings())


def test_each_format_has_a_row_and_single_poses_are_equal(exporter, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "exporter_of", lambda config: exporter)
    names = [
        "run=here",
        "frame=1",
        "format=[ply,splattie,lam,npz,html]",
        "losses=false",
        "browser=false",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("export_benchmark", overrides=names)
    text = exports.run_export_benchmark(config, tmp_path).read_text()
    rows = {line.split("`")[1]: line.split("|") for line in text.splitlines() if "`" in line}
    assert list(rows) == ["ply", "splattie", "lam", "npz", "html"]
    for kind in ("ply", "splattie", "lam", "npz"):
        value = rows[kind][3].strip()
        assert value == "equal" or float(value) > 45, (kind, value)
    assert not rows["html"][3].strip(), "only a browser can draw it"


def test_a_reader_that_is_wrong_shows(exporter, tmp_path, monkeypatch):
    own = exporter.posed(1)
    moved = replace(own, means=own.means + np.float32([0, 0.02, 0]))
    monkeypatch.setitem(exports.READERS, "ply", lambda path, own, frame: (moved, "nobody"))
    assert exports.shows(exporter, "ply", tmp_path, own, 1)[0] < 40


def test_a_format_that_cannot_be_written_costs_no_other_row(exporter, tmp_path, monkeypatch):
    def refuses(scene, path):
        raise UserError("splattie holds whole bodies")

    broken = replace(exports.FORMATS["splattie"], write=refuses)
    monkeypatch.setitem(exports.FORMATS, "splattie", broken)
    monkeypatch.setattr(exports, "exporter_of", lambda config: exporter)
    names = ["run=here", "frame=1", "format=[splattie,ply]", "losses=true", "browser=false"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("export_benchmark", overrides=names)
    text = exports.run_export_benchmark(config, tmp_path).read_text()
    assert "| `splattie` |  |  | not written: splattie holds whole bodies |  |  |" in text
    assert "| `ply` | " in text
    config.frame = "all"
    with pytest.raises(UserError, match=r"^frame=all"):
        exports.run_export_benchmark(config, tmp_path)


@pytest.mark.parametrize(
    ("kind", "offsets", "loss"),
    [("glb", "none", 20.0), ("html", "baked", 30.0), ("mesh", "baked", 10.0)],
)
def test_the_rig_that_was_written_is_the_one_that_is_told(kind, offsets, loss):
    rigs = {
        "offsets left out, 4 bones": 20.0, "offsets of frame 0 baked, 4 bones": 30.0,
        "offsets of frame 0 baked, all bones": 40.0, "textured mesh": 10.0,
    }  # fmt: skip
    assert exports.rig_loss(kind, rigs, offsets) == loss
    assert exports.rig_loss(kind, {}, offsets) is None
    lit = exports.rig_loss(kind, rigs | {exports.LIT: 50.0}, offsets)
    assert lit == (50.0 if kind == "html" else loss), "only the page keeps the light"
