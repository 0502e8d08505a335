"""Views of a few triangles, compared with values worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bare_module import bare

from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.avatar.views import BodyMasks, ViewRenderer
from persona.modules.body.regions import BodyRegions
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Render

# Three triangles in front of a camera (x right, y down, z forward), counter-clockwise from outside:
# the first faces the camera, the second up, the third right.
BASE = torch.tensor(
    [
        [[0.0, 0, 2], [0, 1, 2], [1, 0, 2]],
        [[0, 0, 3], [1, 0, 3], [0, 0, 4]],
        [[5, 0, 3], [5, 0, 4], [5, -1, 3]],
    ]
).view(9, 3)
FACES = torch.arange(9).view(3, 3)
LEFT, RIGHT = torch.tensor([0, 1, 2]), torch.tensor([7, 8])


class Recorder(GaussianRenderer):
    """Records the arguments of ``forward``."""

    name, device_type = "recorder", "cpu"

    def forward(self, gaussians, camera, channels):
        self.gaussians, self.camera, self.channels = gaussians, camera, channels
        return Render({}, torch.zeros(1, camera.height, camera.width))

    def _rasterize(self, gaussians, camera, moving, still):
        raise NotImplementedError


def mask(*rows: int, size: int = 9) -> torch.Tensor:
    return torch.isin(torch.arange(size), torch.tensor(rows))


@pytest.fixture
def avatar() -> GaussianAvatar:
    template = bare(
        AvatarTemplate,
        vertices=torch.arange(27.0).view(9, 3),
        faces=FACES,
        fans=None,
        face=mask(0, 1),
        eye=mask(1),
        left_hand_rows=LEFT,
        right_hand_rows=RIGHT,
    )
    return bare(GaussianAvatar, template=template, initial_rgb=torch.full((9, 3), 0.25))


@pytest.fixture
def posed() -> PosedAvatar:
    generator = torch.Generator().manual_seed(0)
    random = {n: torch.rand(9, 3, generator=generator) for n in ("rgb", "rgb_aux", "albedo", "seg")}
    # Refined is turned by half a circle about z and farther away, so its normals differ too.
    return PosedAvatar(
        base_canonical=torch.arange(27.0).view(9, 3) + torch.tensor([2.0, -1.0, 0.5]),
        refined_canonical=torch.zeros(9, 3),
        base=BASE,
        refined=BASE * torch.tensor([-1.0, -1.0, 1.0]) + torch.tensor([0.0, 0.0, 1.0]),
        scales=torch.linspace(0.01, 0.09, 9)[:, None],
        bones=torch.eye(4)[None],
        expression=torch.zeros(2),
        trans=torch.zeros(3),
        **random,
    )


@pytest.fixture
def camera() -> Camera:
    return Camera.identity(torch.tensor([10.0, 10.0]), torch.tensor([8.0, 6.0]), 12, 16)


def channels(avatar, posed, camera, view, *names):
    recorder = Recorder()
    ViewRenderer(recorder, extent_m=2.0).render(avatar, posed, view, camera, frozenset(names))
    assert recorder.channels.keys() == set(names)
    return [recorder.channels[name].values for name in names]


def by_triangle(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).repeat_interleave(3, 0)


def test_depth_is_the_camera_z_of_the_views_own_asset(avatar, posed, camera):
    expected = torch.tensor([2.0, 2, 2, 3, 3, 4, 3, 4, 3])[:, None]
    for view, farther in (("base", 0), ("patch", 0), ("refined", 1)):
        (depth,) = channels(avatar, posed, camera, view, "depth")
        assert torch.equal(depth, expected + farther), view


def test_normals_have_x_right_y_up_z_to_the_camera(avatar, posed, camera):
    (normal,) = channels(avatar, posed, camera, "base", "normal")
    torch.testing.assert_close(normal, by_triangle([0.0, 0, 1], [0, 1, 0], [1, 0, 0]))
    (normal,) = channels(avatar, posed, camera, "refined", "normal")
    torch.testing.assert_close(normal, by_triangle([0.0, 0, 1], [0, -1, 0], [-1, 0, 0]))


def test_positions_are_canonical_about_the_templates_middle(avatar, posed, camera):
    """The template's middle is (12, 13, 14), the base is (2, -1, 0.5) m from the template."""
    (base, refined) = (
        channels(avatar, posed, camera, view, "position")[0] for view in ("base", "refined")
    )
    torch.testing.assert_close(base[4], torch.tensor([1.5, 0.0, 0.75]))
    torch.testing.assert_close(base[5] - base[4], torch.full((3,), 1.5))
    torch.testing.assert_close(refined[0], torch.tensor([-5.5, -6.0, -6.5]))


def test_masks_and_colours(avatar, posed, camera):
    names = ("albedo", "rgb", "rgb_fixed", "rgb_aux", "seg", "face", "eye", "face_rgb")
    albedo, rgb, fixed, aux, seg, face, eye, face_rgb = channels(
        avatar, posed, camera, "patch", *names
    )
    assert torch.equal(rgb, posed.rgb) and torch.equal(fixed, posed.rgb)
    assert torch.equal(albedo, posed.albedo)
    assert torch.equal(aux, posed.rgb_aux) and torch.equal(seg, posed.seg)
    assert face[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert eye[:, 0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert torch.equal(face_rgb, 0.25 * face.expand(-1, 3))


def test_which_channels_move_the_geometry(avatar, posed, camera):
    moves = {
        "albedo": True, "rgb": True, "rgb_fixed": False, "rgb_aux": False, "seg": True,
        "depth": False, "normal": True, "position": False, "face": True, "face_rgb": True,
        "eye": True,
    }  # fmt: skip
    recorder = Recorder()
    ViewRenderer(recorder).render(avatar, posed, "base", camera, frozenset(moves))
    assert {name: channel.geometry for name, channel in recorder.channels.items()} == moves


def test_a_view_has_the_gaussians_of_its_asset(avatar, posed, camera):
    recorder = Recorder()
    for view, means in (("base", BASE), ("patch", BASE), ("refined", posed.refined)):
        ViewRenderer(recorder).render(avatar, posed, view, camera, frozenset({"rgb"}))
        assert torch.equal(recorder.gaussians.means, means), view
        assert recorder.camera is camera
    for view, rows in (("left_hand", LEFT), ("right_hand", RIGHT)):
        ViewRenderer(recorder).render(avatar, posed, view, camera, frozenset())
        assert torch.equal(recorder.gaussians.means, BASE[rows]), view
        assert torch.equal(recorder.gaussians.scales, posed.scales[rows].expand(-1, 3))
        (channel,) = recorder.channels.values()
        assert torch.equal(channel.values, posed.rgb[rows]) and not channel.geometry


def test_an_unknown_channel_is_named(avatar, posed, camera):
    with pytest.raises(KeyError, match="no channel is called warmth"):
        channels(avatar, posed, camera, "base", "warmth")


@pytest.fixture
def masks() -> tuple[BodyMasks, AvatarTemplate]:
    """Two squares of 2 m: the left hand's at z = 4, half of it behind the face's at z = 2.

    The face's diagonal is from lower left to upper right; the lower triangle is the eye's too.
    """
    square = torch.tensor([[-1.0, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]])
    vertices = torch.cat([square + torch.tensor([0.0, 0, 2]), square + torch.tensor([2.0, 0, 4])])
    triangles = torch.tensor([[0, 1, 3], [1, 2, 3]])
    none = torch.zeros(8, dtype=torch.bool)
    names = ("left_hand", "right_hand", "hand", "face", "face_expr", "eye", "expr_boundary",
             "mouth_in", "mouth_out")  # fmt: skip
    regions = dict.fromkeys(names, none)
    for name, rows in (("face", (0, 1, 2, 3)), ("eye", (1, 2, 3)), ("left_hand", (4, 5, 6, 7))):
        regions[name] = mask(*rows, size=8)
    template = bare(
        AvatarTemplate,
        coarse_vertices=vertices,
        coarse_regions=BodyRegions(**regions),
        # The subdivided mesh has one vertex more than the body.
        expr_dirs=torch.cat([torch.full((8, 3, 2), 0.5), torch.full((1, 3, 2), 9.0)]),
        weights=torch.ones(9, 1),
    )
    template.body = SimpleNamespace(faces=torch.cat([triangles, triangles + 4]))
    return BodyMasks(template), template


def test_the_mesh_of_the_masks_is_posed_with_its_expression(masks, posed):
    """An expression of 0.5 (1 + 3) = 2 m along each axis, half a turn about z, a translation."""
    body_masks, template = masks
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))[None]
    pose = replace(
        posed, bones=turn, expression=torch.tensor([1.0, 3.0]), trans=torch.tensor([0.0, 1.0, 5.0])
    )
    found = body_masks(template, pose)
    torch.testing.assert_close(found[0], torch.tensor([-1.0, 0.0, 9.0]))
    torch.testing.assert_close(found[6], torch.tensor([-5.0, -2.0, 11.0]))


def test_masks_of_regions_by_hand(masks):
    """Focal length 4 px, principal point (4, 4).

    The near square spans x and y from -1 to 1 at z = 2: 4 + 4 x / 2, columns and rows 2 to 5. The
    far one spans x from 1 to 3 at z = 4: columns 5 and 6, rows 3 and 4, and column 5 is hidden.
    """
    body_masks, template = masks
    camera = Camera.identity(torch.tensor([4.0, 4.0]), torch.tensor([4.0, 4.0]), 8, 8)
    seen = body_masks.visible(template.coarse_vertices, camera, ("face", "eye", "left_hand"))
    near, far = torch.zeros(2, 8, 8, dtype=torch.bool)
    near[2:6, 2:6] = True
    far[3:5, 5:7] = True
    assert torch.equal(seen["face"], near)
    assert torch.equal(seen["left_hand"], far & ~near)
    assert torch.equal(body_masks.alone(template.coarse_vertices, camera, "left_hand"), far)
    assert not body_masks.alone(template.coarse_vertices, camera, "right_hand").any()
    # Below the diagonal from the lower left to the upper right corner.
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(seen["eye"][row + column > 7], near[row + column > 7])
    assert not seen["eye"][row + column < 7].any()
