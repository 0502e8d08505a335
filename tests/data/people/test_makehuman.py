"""MakeHuman's garments on the packaged body."""

import numpy as np
import pytest
import torch

from persona.data.palette import PART_INDEX
from persona.data.people.assets import read_assets
from persona.data.people.makehuman import _Base, read_wearable
from persona.data.people.wearable import tailored
from persona.errors import UserError


def write_garment(folder, rows, faces="f 1/1 2/2 3/3\n"):
    """Writes a garment of one triangle."""
    head = "# made by a test\nname t\nobj_file t.obj\nx_scale 5399 11998 1.4\n"
    (folder / "t.mhclo").write_text(
        head + "verts 0\n" + "\n".join(rows) + "\ndelete_verts\n0 - 20\n"
    )
    coords = "vt 0.25 0.75\nvt 1 0\nvt 0 1\n"
    (folder / "t.obj").write_text("v 0 0 0\n" * 3 + coords + faces)
    return folder


def test_a_vertex_of_the_base_mesh_lies_where_the_body_has_it(body, tmp_path):
    chosen = [100, 5000, 9000]
    base = _Base.load().body_index[chosen]
    garment = read_wearable(write_garment(tmp_path, [str(v) for v in base]), body, "clothes")
    torch.testing.assert_close(garment.rest, body.template[chosen], atol=6e-4, rtol=0)
    assert garment.faces.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(garment.coords[0, 0], torch.tensor([0.25, 0.25]))


def test_offsets_are_in_reference_lengths(body, tmp_path):
    """x offsets scale with two vertices' distance on this base over that in the garment's file."""
    base = _Base.load()
    vertex = int(base.body_index[5000])
    apart = abs(base.rest[5399, 0] - base.rest[11998, 0]) * 10 / 1.4
    rows = [f"{vertex} {vertex} {vertex} 1 0 0 {dx} 0 0" for dx in (0, 0.5, 1.0)]
    garment = read_wearable(write_garment(tmp_path, rows), body, "clothes")
    moved = (garment.rest[1:] - garment.rest[0]).norm(dim=-1)
    # The part is rigid, so moving it to the T-pose does not stretch it.
    np.testing.assert_allclose(moved, [0.05 * apart, 0.1 * apart], rtol=2e-3)


def test_follows_the_shape_of_what_it_lies_on(body, tmp_path):
    chosen = [100, 5000, 9000]
    base = _Base.load().body_index[chosen]
    garment = read_wearable(write_garment(tmp_path, [str(v) for v in base]), body, "clothes")
    betas = torch.zeros(body.num_betas)
    betas[0] = 2.0
    moved, expected = garment.shape_dirs @ betas, body.shape_dirs[chosen] @ betas
    assert (moved - expected).norm(dim=-1).max() < 0.15 * expected.norm(dim=-1).max()


@pytest.mark.parametrize("rows", [["1 2"], ["x y z"], []])
def test_a_damaged_garment_is_named(body, tmp_path, rows):
    with pytest.raises(UserError, match=r"t\.mhclo.*; get it"):
        read_wearable(write_garment(tmp_path, rows), body, "clothes")


def test_a_missing_garment_is_named(body, tmp_path):
    with pytest.raises(UserError, match=r"no \.mhclo.*; get it"):
        read_wearable(tmp_path, body, "clothes")


def test_a_missing_texture_is_named(body, tmp_path):
    row = [str(_Base.load().body_index[5000])] * 3
    for name in ("clothes/shirt", "clothes/shoes", "hair/bob"):
        (tmp_path / name).mkdir(parents=True)
        write_garment(tmp_path / name, row)
    (tmp_path / "skins").mkdir()
    (tmp_path / "skins/skin.png").touch()
    with pytest.raises(UserError, match=r"shoes: no \*_diffuse\.png; give"):
        read_assets(tmp_path, body)


@pytest.fixture(scope="module")
def suit(shared_data, body):
    folder = shared_data / "makehuman_cc0/clothes/male_casualsuit01"
    return read_wearable(folder, body, "clothes")


def test_sewn_shirt_and_trousers_are_told_apart(suit):
    height = suit.rest[suit.faces].mean(1)[:, 1]
    upper = suit.part == PART_INDEX["Upper_Clothing"]
    assert height[upper].min() > -0.45 and height[~upper].max() < -0.3
    assert 0.3 < upper.float().mean() < 0.7


def test_tailored_clothes_end_where_they_are_cut_and_show_skin(suit, body):
    short = tailored(suit, body, sleeve_m=0.35, hem_m=-9.0, leg_m=-9.0)
    upper = short.part == PART_INDEX["Upper_Clothing"]
    assert short.rest[short.faces[upper]].mean(1)[:, 0].abs().max() <= 0.35
    assert (short.part != PART_INDEX["Upper_Clothing"]).sum() == (~(suit.part == 22)).sum()
    shown = suit.hides & ~short.hides
    assert shown.any() and body.template[body.faces[shown]].mean(1)[:, 0].abs().min() > 0.35
