"""The table of export formats: what others read is drawn, and what is wrong in a file shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from persona.benchmark import exports
from persona.commands.avatar_export import AvatarExport, Settings
from persona.data.motion.load import load_motion

CONF = Path(__file__).parents[2] / "conf"
pytest.importorskip("plyfile", reason="needs persona[export]")


@pytest.fixture
def exporter(seen_system):
    return AvatarExport(seen_system, load_motion("squat", seen_system.body)[:3], Settings())


def test_each_format_has_a_row_and_single_poses_are_equal(exporter, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "exporter_of", lambda config: exporter)
    names = ["run=here", "frame=1", "format=[ply,splattie,lam,npz,html]", "losses=false"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("export_benchmark", overrides=names)
    text = exports.run_export_benchmark(config, tmp_path).read_text()
    rows = {line.split("`")[1]: line.split("|") for line in text.splitlines() if "`" in line}
    assert list(rows) == ["ply", "splattie", "lam", "npz", "html"]
    for kind in ("ply", "splattie", "lam", "npz"):
        value = rows[kind][3].strip()
        assert value == "equal" or float(value) > 45, (kind, value)
    assert not rows["html"][3].strip(), "drawn by a browser, not here"


def test_a_reader_that_is_wrong_shows(exporter, tmp_path, monkeypatch):
    own = exporter.posed(1)
    moved = replace(own, means=own.means + np.float32([0, 0.02, 0]))
    monkeypatch.setitem(exports.READERS, "ply", lambda path, own: (moved, "nobody"))
    assert exports.shows(exporter, "ply", tmp_path, own)[0] < 40
