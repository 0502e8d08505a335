"""The texture prior colours only texels that no photograph shows."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.spatial import cKDTree

from persona.data.layout import Textures
from persona.data.preprocess import prior
from persona.data.preprocess.prior import FEATHER_M, TexturePrior, surface_colours
from persona.data.preprocess.textured_person import uv_mesh
from persona.data.preprocess.unwrap import texels_of
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.diffusion.base import Reference
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.small import SmallLhm

SIZE = 128
GREY = 90
NOBODY = Reference(
    np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros((133, 3), np.float32)
)


def true_colour(places):
    """A colour that is smooth over the body, and differs between front and back."""
    x, y, z = places.T
    return np.stack([0.5 + 0.4 * np.sin(3 * y), 0.5 + 0.4 * np.sin(4 * x), 0.5 - 2.5 * z], -1)


@pytest.fixture(scope="module")
def known():
    """An avatar with true colours everywhere, and a texture that has only the front."""
    body = SmplxBody()
    avatar = LhmAvatar(body, body.zero_identity(), 12000)
    avatar.opacity.fill_(1)
    avatar.rgb.copy_(torch.from_numpy(true_colour(avatar.places.numpy())).float())
    mesh = uv_mesh(body, body.zero_identity())
    texels = texels_of(mesh, SIZE)
    place = texels.features(body.template).numpy()
    index, seen = texels.index.numpy(), place[:, 2] > 0.02
    image = np.full((SIZE * SIZE, 3), GREY, np.uint8)
    image[index[seen]] = (255 * true_colour(place[seen])).round()
    mask = np.zeros(SIZE * SIZE, bool)
    mask[index[seen]] = True
    image, mask = image.reshape(SIZE, SIZE, 3), mask.reshape(SIZE, SIZE)
    return avatar, Textures(image, mask, image, image), mesh, place, index, seen


@pytest.fixture
def mixed(known, monkeypatch):
    avatar, textures, mesh, *_ = known
    monkeypatch.setattr(prior, "avatar_of", lambda *of: avatar)

    def at(share):
        model = SmallLhm(random=True)
        made, told = TexturePrior(model=model, share=share)(textures, mesh, NOBODY)
        tones = f"{share:.0%} of the unseen texture's tones by SmallLhm"
        assert told == ([tones] if share else []), "the note for the subject's provenance is wrong"
        return made, made.inpaint.reshape(-1, 3).astype(float)

    return at


def test_unseen_sides_take_the_expected_colour_and_seen_ones_stay(known, mixed):
    _, textures, _, place, index, seen = known
    made, colour = mixed(1.0)
    before = textures.inpaint.reshape(-1, 3)
    assert (colour[index[seen]] == before[index[seen]]).all()
    assert (made.mask == textures.mask).all() and (made.texture == textures.texture).all()
    behind = place[:, 2] < 0.02 - 3 * FEATHER_M
    error = np.abs(colour[index] - 255 * true_colour(place))
    assert error[behind].mean() < 3 and error[behind].max() < 30
    assert np.abs(before[index[behind]] - 255 * true_colour(place)[behind]).mean() > 30


def test_the_share_lies_between_and_begins_at_what_is_seen(known, mixed):
    _, textures, _, place, index, seen = known
    before = textures.inpaint.reshape(-1, 3)[index].astype(float)
    half, whole = (mixed(share)[1][index] for share in (0.5, 1.0))
    assert np.abs(half - (before + whole) / 2).max() <= 1
    assert (mixed(0.0)[1][index] == before).all()
    distance, _ = cKDTree(place[seen]).query(place)
    moved = np.abs(whole - before).mean(-1)
    near, far = ~seen & (distance < FEATHER_M / 4), distance > 3 * FEATHER_M
    assert near.sum() > 20 and moved[near].mean() < 0.15 * moved[far].mean()


def test_the_fills_own_detail_stays(known, mixed):
    """Stripes finer than the smoothing keep their contrast, around another tone."""
    avatar, textures, mesh, place, index, _ = known
    stripes = textures.inpaint.copy()
    fine = np.where(np.arange(SIZE * SIZE) % 2, 30, -30).reshape(SIZE, SIZE, 1)
    stripes = np.where(textures.mask[..., None], stripes, stripes + fine).astype(np.uint8)
    far = place[:, 2] < 0.02 - 3 * FEATHER_M
    model = SmallLhm(random=True)
    avatar.rgb[:, :] = 0.6
    try:
        made, _ = TexturePrior(model=model, share=1.0, smooth_m=0.04)(
            textures._replace(inpaint=stripes), mesh, NOBODY
        )
    finally:
        avatar.rgb.copy_(torch.from_numpy(true_colour(avatar.places.numpy())).float())
    colour = made.inpaint.reshape(-1, 3)[index[far]].astype(float)
    assert abs(colour.mean() - 0.6 * 255) < 5 and 20 < colour.std() < 35


def test_faint_gaussians_say_little(known):
    """The colours of Gaussians without opacity do not count, even at their own places."""
    avatar, rows = copy.deepcopy(known[0]), slice(0, None, 100)
    places = avatar.places.numpy()[rows]
    plain = surface_colours(avatar, places)
    assert np.abs(plain - true_colour(places)).max(-1).mean() < 0.02
    avatar.rgb[rows] += 1
    assert (surface_colours(avatar, places) - plain).min() > 0.1
    avatar.opacity[rows] = 0
    faint = surface_colours(avatar, places)
    avatar.rgb[rows] -= 1
    assert np.abs(surface_colours(avatar, places) - faint).max() < 0.01


def test_somebody_the_network_cannot_take_stays_plain_and_is_told(known, caplog):
    _, textures, mesh, *_ = known
    made, told = TexturePrior(model=SmallLhm(random=True))(textures, mesh, NOBODY)
    assert (made.inpaint == textures.inpaint).all()
    assert "stays plain (prior.share=0): lhm needs the body" in caplog.text
    (line,) = told
    assert line.startswith("no network asked of the unseen texture: lhm needs the body")


def test_bad_shares_and_missing_weights_are_told_before_the_long_work():
    with pytest.raises(UserError, match=r"prior\.share=1\.5: a share lies between 0 and 1"):
        TexturePrior(model=SmallLhm(random=True), share=1.5).check()
    with pytest.raises(UserError, match=r"model\.weights=FILE"):
        TexturePrior(model=SmallLhm()).check()
    with pytest.raises(UserError, match=r"gone\.safetensors: no such file of weights \(model\.w"):
        TexturePrior(model=SmallLhm(weights="gone.safetensors")).check()
    TexturePrior(model=SmallLhm(), share=0.0).check()


def test_the_configuration_has_the_shipped_network():
    folder = str(Path(__file__).parents[3] / "conf")
    with initialize_config_dir(folder, version_base="1.3"):
        instantiate(compose("preprocess", ["photo=x", "name=x"]).prior).check()
