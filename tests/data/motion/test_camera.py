import pytest
import torch

from persona.data.motion.camera import fit_camera, place_in_camera, place_in_world
from persona.data.motion.procedural import builtin_motion


def joints_of(target, pose):
    return target.pose(target.local_rotations(pose))[1].float() + pose.trans[:, None]


def test_person_stands_upright_and_faces_the_camera(target):
    pose = builtin_motion("still", target, 30).pose
    root = target.rest_joints[0].float()
    world, camera = joints_of(target, pose), joints_of(target, place_in_camera(pose, root))
    flipped = world * torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(camera, flipped, atol=1e-5, rtol=0)
    shift = torch.tensor([0.1, 0.2, 3.0])
    moved = joints_of(target, place_in_camera(pose, root, shift))
    torch.testing.assert_close(moved, flipped + shift, atol=1e-5, rtol=0)
    back = place_in_world(place_in_camera(pose, root), root)
    torch.testing.assert_close(joints_of(target, back), world, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width", "focal"), [(256, 192, None), (300, 600, 900.0)])
def test_everything_is_in_view_and_fills_it(height, width, focal):
    points = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    camera, shift = fit_camera(points, height, width, focal, margin=0.1)
    pixels = camera.project((points + shift).flatten(0, 1))
    share = pixels / torch.tensor([width, height])
    assert share.min() > 0.1 - 1e-4 and share.max() < 0.9 + 1e-4
    spread = share.amax(0) - share.amin(0)
    assert spread.max() == pytest.approx(0.8, abs=1e-3)
    assert ((points + shift)[..., 2] > 0).all()
