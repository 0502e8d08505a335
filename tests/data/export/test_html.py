"""The exported page: its data, read by Python, and that it loads nothing from a network."""

import base64
import gzip
import json
import re
from dataclasses import replace

import numpy as np
from splat_scene import COUNT, FRAMES, random_scene

from persona.data.export.html import write_html
from persona.data.export.scene import Lighting


def parts(page: str):
    """Description and arrays of a page."""
    meta = json.loads(re.search(r'<script id="meta"[^>]*>(.*?)</script>', page, re.S)[1])
    text = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1]
    data = gzip.decompress(base64.b64decode(text))
    arrays = {
        name: np.frombuffer(data, f"<{kind}", length, start)
        for name, kind, start, length in meta["arrays"]
    }
    return meta, arrays


def test_the_page_holds_the_rig_and_the_motion(tmp_path):
    scene = random_scene()
    write_html(scene, tmp_path / "a.html")
    meta, arrays = parts((tmp_path / "a.html").read_text())
    rig = scene.rigged()
    assert (meta["count"], meta["frames"], meta["fps"], meta["round"]) == (COUNT, FRAMES, 10, False)
    assert meta["parents"] == [-1, 0, 0]
    np.testing.assert_array_equal(arrays["means"].reshape(-1, 3), rig.splats.means)
    np.testing.assert_allclose(arrays["colors"].reshape(-1, 4)[:, :3] / 255, rig.splats.rgb,
                               atol=0.5 / 255 + 1e-6)  # fmt: skip
    skin = arrays["skin"].reshape(-1, 4)
    np.testing.assert_allclose(skin.sum(1), 1, atol=1e-6)
    dense = np.zeros((COUNT, 3))
    np.add.at(dense, (np.arange(COUNT)[:, None], arrays["joints"].reshape(-1, 4)), skin)
    expected = np.zeros((COUNT, 3))
    np.add.at(expected, (np.arange(COUNT)[:, None], rig.skin.bones), rig.skin.weights)
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    for expression, dirs in zip(meta["expressions"], rig.expression_dirs, strict=True):
        start, count = expression["rows"]
        found = np.zeros((COUNT, 3), np.float32)
        found[arrays["rows"][start : start + count]] = arrays["dirs"].reshape(-1, 3)[
            start : start + count
        ]
        np.testing.assert_array_equal(found, dirs)
    assert [e["name"] for e in meta["expressions"]] == list(rig.expression_names)
    np.testing.assert_array_equal(arrays["rotations"].reshape(FRAMES, 3, 4), scene.clip.rotations)


def test_the_page_holds_the_light(tmp_path):
    scene, random = random_scene(), np.random.default_rng(0)
    write_html(scene, tmp_path / "even.html")
    meta, arrays = parts((tmp_path / "even.html").read_text())
    assert meta["light"] is None and "normals" not in arrays
    normals = random.normal(size=(COUNT, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    lighting = Lighting(normals, np.arange(1, 10, dtype=np.float32))
    lit = replace(scene, rigged=lambda: replace(scene.rigged(), lighting=lighting))
    write_html(lit, tmp_path / "lit.html")
    meta, arrays = parts((tmp_path / "lit.html").read_text())
    assert meta["light"] == list(range(1, 10))
    np.testing.assert_allclose(arrays["normals"].reshape(-1, 3) / 127.5 - 1, normals, atol=0.004)


def test_the_page_asks_no_network_and_a_name_cannot_break_it(tmp_path):
    scene = random_scene()
    named = type(scene)(**(vars(scene) | {"name": "</script><b>"}))
    write_html(named, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "://" not in page and "src=" not in page and "{{" not in page
    assert "default-src 'none'" in page
    assert "</script><b>" not in page and page.count("</script>") == 3
