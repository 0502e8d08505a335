"""Points tied to a mesh equal the public code's, and follow rigid motions."""

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from surface_fixture import given_points, grid, splatting_fixture

from persona.modules.body.rotation import (
    matrix_from_axis_angle,
    quaternion_from_matrix,
    quaternion_product,
)
from persona.modules.body.surface_points import (
    SurfacePoints,
    area_ratios,
    closest_points,
    face_frames,
    phong_positions,
    random_points,
    vertex_turns,
)
from persona.modules.body.topology import vertex_normals
from persona.modules.body.triangle_walk import across_sides


def close(ours, theirs, bound=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= bound


def test_parity_of_the_embedding(shared_data):
    given, wanted = splatting_fixture(shared_data, "embedding")
    points, faces = given_points(given), given["faces"]
    canonical, posed = given["cano_verts"], given["posed_verts"]
    height = given["uvd_d"]
    close(points.blend(posed, faces), wanted["base_xyz"])
    ours = phong_positions(points, height, posed, given["posed_norms"], faces)
    close(ours, wanted["xyz"])
    ours = phong_positions(points, height, canonical, given["cano_norms"], faces)
    close(ours, wanted["xyz_cano"])
    frames = face_frames(posed, faces) @ face_frames(canonical, faces).transpose(1, 2)
    close(frames, wanted["per_face_Rt"][:, :3, :3])
    turns = vertex_turns(canonical, posed, faces)
    close(turns, wanted["per_vert_quat"])
    base = points.blend(turns, faces)
    close(base, wanted["base_quat_unnormalised"])
    product = F.normalize(quaternion_product(base, given["rotation_raw"]), dim=-1)
    # The public code makes the real part positive; both signs are the same rotation.
    close(torch.where(product[:, :1] < 0, -product, product), wanted["rotation"])
    ratio = area_ratios(canonical, posed, faces, 1e-4)[:, None]
    close(ratio, wanted["face_area_ratio"])
    scales = (given["scaling_raw"] * ratio[points.face]).exp()
    close(scales / wanted["scaling_with_mesh"], torch.ones_like(scales))


def test_parity_of_a_position_that_slides(shared_data):
    given, wanted = splatting_fixture(shared_data, "fixed_position")
    uvd = given["uvd"].clone().requires_grad_()
    points = given_points(given).slid(uvd[:, :2])
    mesh = given["posed_verts"], given["posed_norms"], given["faces"]
    ours = phong_positions(points, uvd[:, 2:], *mesh)
    close(ours, wanted["xyz"])
    (ours * given["grad_weight"]).sum().backward()
    close(uvd.grad, wanted["grad_uvd"])


def test_parity_of_embedding_again(shared_data):
    given, wanted = splatting_fixture(shared_data, "reembed")
    faces, uv = given["faces"], given["start_uv"]
    start = SurfacePoints(given["start_face"], torch.cat([uv, 1 - uv.sum(1, keepdim=True)], 1))
    mesh = given["cano_verts"], given["cano_norms"], across_sides(faces), faces
    ours = closest_points(given["new_xyz"], start, *mesh)
    feet = ours.blend(given["cano_verts"], faces)
    error = (feet - wanted["surface_xyz"]).abs().amax(1)
    # If the first walk ends on a side, rounding decides in the public code whether the second
    # leaves it. So one point may differ, if the public one is on that side.
    differs = error > 1e-5
    assert differs.sum() <= 1
    assert (wanted["uv"][differs].amin(1) == 0).all()
    assert error.max() < 5e-3
    assert torch.equal(ours.face[~differs], wanted["face_idx"][~differs])
    close(ours.barycentric[~differs, :2], wanted["uv"][~differs], 1e-4)


@pytest.mark.parametrize("angle", [0.4, 3.1, 3.1415])
def test_turns_and_positions_follow_a_rigid_motion(angle):
    """Also near half a turn, where rounding decides the sign of a quaternion's w."""
    vertices, faces = grid(3)
    vertices = vertices + 0.1 * torch.randn(
        vertices.shape, generator=torch.Generator().manual_seed(0)
    )
    turn = matrix_from_axis_angle(torch.tensor([angle, 0.0, 0.02]))
    moved = vertices @ turn.T + torch.tensor([1.0, 2, 3])
    turns = vertex_turns(vertices, moved, faces)
    expected = quaternion_from_matrix(turn)
    assert ((turns @ expected).abs() > 1 - 1e-5).all()
    assert ((turns @ turns[0]) > 0).all()
    points = random_points(faces, 40, torch.Generator().manual_seed(1))
    height = torch.linspace(-0.2, 0.2, 40)[:, None]
    normals = vertex_normals(vertices, faces)
    before = phong_positions(points, height, vertices, normals, faces)
    after = phong_positions(points, height, moved, normals @ turn.T, faces)
    close(after, before @ turn.T + torch.tensor([1.0, 2, 3]), 1e-4)


def test_products_of_quaternions_are_rotations_in_turn():
    one, two = (torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    ours = F.normalize(quaternion_product(one, two), dim=-1)
    wxyz = [3, 0, 1, 2]
    theirs = Rotation.from_quat(one[:, [1, 2, 3, 0]]) * Rotation.from_quat(two[:, [1, 2, 3, 0]])
    expected = torch.from_numpy(theirs.as_quat()[:, wxyz]).float()
    assert ((ours * expected).sum(1).abs() > 1 - 1e-6).all()


def test_areas_grow_with_the_square():
    vertices, faces = grid(2)
    ratios = area_ratios(vertices, 3 * vertices, faces, 0.0)
    close(ratios, torch.full_like(ratios, 9.0))


def test_closest_points_below_points_above_a_plane():
    vertices, faces = grid(4)
    vertices = vertices / 4
    normals = torch.tensor([0, 0, 1.0]).expand_as(vertices)
    start = random_points(faces, 60, torch.Generator().manual_seed(3))
    shift = 0.03 * torch.randn(60, 3, generator=torch.Generator().manual_seed(4))
    targets = start.blend(vertices, faces) + shift
    targets[:, :2] = targets[:, :2].clamp(0.02, 0.98)
    mesh = vertices, normals, across_sides(faces), faces
    feet = closest_points(targets, start, *mesh).blend(vertices, faces)
    before = (targets - start.blend(vertices, faces))[:, :2].norm(dim=1).mean()
    assert (feet - targets)[:, :2].norm(dim=1).mean() < 0.2 * before


def test_random_points_lie_on_all_faces_alike():
    _, faces = grid(2)
    points = random_points(faces, 8000, torch.Generator().manual_seed(5))
    share = torch.bincount(points.face, minlength=len(faces)) / 8000
    assert (share - 1 / len(faces)).abs().max() < 0.03  # 0.03 is nine standard deviations.
    assert (points.barycentric.mean(0) - 1 / 3).abs().max() < 0.02
    assert (points.barycentric >= 0).all()
