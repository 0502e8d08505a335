from dataclasses import replace

import pytest
import torch
from scipy import ndimage

from persona.data.preprocess.clothing import ClothingFit, Photo, dress, dressed_as
from persona.data.preprocess.cover import Cover
from persona.data.preprocess.fit import BodyFit, photo_camera
from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.preprocess.fit_state import rest_body_pose
from persona.modules.body.regions import body_regions
from persona.modules.body.rotation import axis_angle_from_matrix
from persona.modules.body.topology import vertex_normals
from persona.modules.detect import Detection
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose


@pytest.fixture(scope="module")
def fit(body):
    pose = BodyPose.zero(body.num_expression)
    pose.body[:] = rest_body_pose()
    pose.root[:] = axis_angle_from_matrix(FACING_CAMERA) + 0.05
    pose.trans[:] = torch.tensor([0.0, -0.2, 4.5])
    return BodyFit(body.zero_identity(), pose, 0.0, 0.0)


def silhouette(body, fit, camera):
    return rasterize(body(fit.identity, fit.pose)[0], body.faces, camera).mask


def test_dress_moves_the_skin_and_no_joint(body, fit):
    rest, _ = body.shape(fit.identity)
    offset = 0.03 * vertex_normals(rest, body.faces)
    dressed = dress(body, fit, offset)
    before, joints_before = body(fit.identity, fit.pose)
    after, joints_after = body(dressed.identity, dressed.pose)
    torch.testing.assert_close(joints_after[1:], joints_before[1:], atol=1e-5, rtol=0)
    moved = (after - before).norm(dim=-1)
    assert (moved - 0.03).abs().median() < 1e-3


def test_another_photo_is_dressed_where_its_own_naked_fit_stands(body, fit):
    """The translation is corrected: without that the clothed body would shift by centimetres."""
    rest, _ = body.shape(fit.identity)
    offset = torch.tensor([0.01, 0.02, 0.03]).expand_as(rest)
    first = dress(body, fit, offset)
    turned = replace(fit.pose, root=torch.tensor([0.1, 0.4, 0.0]), trans=torch.ones(3))
    naked = replace(fit, pose=turned, residual_px=2.0)
    other = dressed_as(body, naked, first.identity)
    assert other.identity is first.identity and other.residual_px == 2.0
    _, before = body(naked.identity, naked.pose)
    _, after = body(other.identity, other.pose)
    torch.testing.assert_close(after[1:], before[1:], atol=1e-5, rtol=0)
    _, slid = body(first.identity, naked.pose)
    assert (slid - before)[1:].norm(dim=-1).min() > 0.005


def test_clothing_reaches_the_outline_of_wide_clothes(body, fit):
    camera = photo_camera(400, 300)
    naked = silhouette(body, fit, camera)
    wide = torch.from_numpy(ndimage.binary_dilation(naked.numpy(), iterations=4))
    vertices, joints = body(fit.identity, fit.pose)
    points = camera.project(body.keypoints(vertices, joints))
    keypoints = torch.cat((points, torch.ones(133, 1)), -1)
    detection = Detection(wide.float(), keypoints, torch.zeros(133, 4))
    regions = body_regions(body)
    cover = Cover.none(len(body.template))
    clothed = ClothingFit(iterations=80)(body, [Photo(fit, detection, camera)], regions, cover)

    def overlap(mask):
        return float((mask & wide).sum() / (mask | wide).sum())

    assert overlap(silhouette(body, clothed, camera)) > overlap(naked) + 0.1
    offset = clothed.identity.face_offset.norm(dim=-1)
    assert (offset[regions.hand | regions.eye] == 0).all()
    assert offset.max() <= 0.08 + 1e-6


@pytest.mark.parametrize("grow", [4, -3])
def test_bare_skin_keeps_its_girth(body, fit, grow):
    camera = photo_camera(400, 300)
    naked = silhouette(body, fit, camera)
    change = ndimage.binary_dilation if grow > 0 else ndimage.binary_erosion
    wide = torch.from_numpy(change(naked.numpy(), iterations=abs(grow)))
    vertices, joints = body(fit.identity, fit.pose)
    points = camera.project(body.keypoints(vertices, joints))
    keypoints = torch.cat((points, torch.ones(133, 1)), -1)
    detection = Detection(wide.float(), keypoints, torch.zeros(133, 4))
    cover = replace(
        Cover.none(len(body.template)), bare=torch.ones(len(body.template), dtype=torch.bool)
    )
    regions = body_regions(body)
    clothed = ClothingFit(iterations=20)(body, [Photo(fit, detection, camera)], regions, cover)
    offset = clothed.identity.face_offset.norm(dim=-1)
    assert offset.max() <= 0.0051
    assert (offset[regions.face_expr | regions.hand] == 0).all()


def test_sleeves_and_trouser_legs_stand_off_less_than_the_trunk(body):
    rest, _ = body.shape(body.zero_identity())
    regions, cover = body_regions(body), Cover.none(len(rest))
    limit = ClothingFit()._limits(body, rest, regions, cover)
    of = body.weights
    assert limit[of[:, [16, 17, 18, 19]].sum(-1) > 0.999].max() <= 0.04 + 1e-5
    assert limit[of[:, [1, 2, 4, 5]].sum(-1) > 0.999].max() <= 0.06 + 1e-5
    assert limit[of[:, [0, 3, 6]].sum(-1) > 0.999].max() == pytest.approx(0.1, abs=1e-5)
    skirt = replace(cover, skirt=of[:, [1, 2]].sum(-1) > 0.999)
    wide = ClothingFit()._limits(body, rest, regions, skirt)
    assert (wide[skirt.skirt] == limit.max()).float().mean() > 0.9, (
        "the limit of trouser legs must not apply to skirts"
    )
