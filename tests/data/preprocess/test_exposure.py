"""Exposures of several photographs: found if they differ, and distinguished from light."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from persona.data.preprocess.exposure import Shown, evened, exposures, pairs_of

COUNT = 3000


def body(seed=0):
    """Colours of texels, and their normals on a body."""
    random = np.random.default_rng(seed)
    colour = torch.from_numpy(random.uniform(0.25, 0.5, (COUNT, 3))).float()
    return colour, normalize(torch.from_numpy(random.normal(size=(COUNT, 3))).float(), dim=-1)


def photo(albedo, direction, yaw, light=(0.0, 0.0, 0.0), exposure=0.0):
    """Photo of a body turned by ``yaw``; light (in the camera's frame) and exposure are logs."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).float()
    normal = direction @ turn.T
    shade = normal @ torch.tensor(light) + exposure
    weight = (-normal[:, 2]).clamp(min=0)
    colour = albedo * (shade / 2.2).exp()[:, None]
    return Shown(colour * (weight > 0)[:, None], weight, normal)


ROUND = (0.0, np.pi, np.pi / 2, -np.pi / 2)
SIDE_LIGHT = (0.5, 0.0, -0.2)


def found(photos):
    return exposures(photos, pairs_of(photos))


def test_an_exposure_is_found_and_evened_where_both_see():
    albedo, direction = body()
    photos = [photo(albedo, direction, 0.0), photo(albedo, direction, 0.3, exposure=0.6)]
    np.testing.assert_allclose(found(photos), [[0.0] * 3, [0.6] * 3], atol=0.02)
    colour = evened(photos, pairs_of(photos))[1]
    both = (photos[0].weight > 0.4) & (photos[1].weight > 0.4)
    np.testing.assert_allclose(colour[both], albedo[both], atol=0.005)


def test_light_that_stays_while_somebody_turns_round_is_no_exposure():
    """Light from one side looks like exposure in each pair, and would add up around the body."""
    photos = [photo(*body(), yaw, SIDE_LIGHT) for yaw in ROUND]
    assert len(pairs_of(photos)) == 4, "front and back share no texels"
    assert float(found(photos).abs().max()) < 0.02


def test_exposures_are_found_beside_light():
    wanted = (0.0, 0.3, -0.4, 0.1)
    photos = [
        photo(*body(), yaw, SIDE_LIGHT, exposure)
        for yaw, exposure in zip(ROUND, wanted, strict=True)
    ]
    np.testing.assert_allclose(found(photos)[:, 1], wanted, atol=0.05)


def test_another_shirt_is_no_exposure():
    """A red and a blue shirt, same trousers: gains of ten would make skin orange."""
    red, blue = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.8])
    _, direction = body()
    shirt = torch.arange(COUNT)[:, None] < 0.7 * COUNT
    rest = torch.full((COUNT, 3), 0.4)
    photos = [photo(torch.where(shirt, worn, rest), direction, 0.0) for worn in (red, blue)]
    assert float(found(photos).abs().max()) == 0
    assert torch.equal(evened(photos, pairs_of(photos))[1], photos[1].colour)


def test_photos_that_share_with_each_other_alone_keep_their_exposures():
    front, *behind = (
        photo(*body(), yaw, exposure=exposure)
        for yaw, exposure in ((0.0, 0.0), (np.pi - 0.1, 0.3), (np.pi + 0.1, -0.3))
    )
    photos = [front, *behind]
    assert [pair[:2] for pair in pairs_of(photos)] == [(1, 2)]
    assert float(found(photos).abs().max()) == 0


def test_two_sides_lit_alike_are_told_from_two_exposures():
    """Front, left and right, without a photo of the back that would link left and right."""
    photos = [photo(*body(), yaw, SIDE_LIGHT) for yaw in (0.0, np.pi / 2, -np.pi / 2)]
    lit = float(found(photos).abs().max())
    assert lit < 0.12, "without a model of light it is over 0.25"


def test_some_texels_of_another_garment_change_little():
    albedo, direction = body()
    first, second = (photo(albedo, direction, yaw, exposure=yaw) for yaw in (0.0, 0.3))
    strange = second.colour.clone()
    strange[::5] = 0.9
    shown = [first, second._replace(colour=strange)]
    np.testing.assert_allclose(found(shown), found([first, second]), atol=0.05)


@pytest.mark.parametrize("yaw", [np.pi, 2.6])
def test_exposure_stays_where_too_little_is_shared(yaw):
    photos = [photo(*body(), 0.0), photo(*body(), yaw, exposure=-0.7)]
    assert not pairs_of(photos) and not found(photos).any()
