"""The mesh rasteriser against ray casting, its fill rule, invariances and its torch twin."""

import math

import pytest
import torch

from persona.modules.render import mesh_kernels, mesh_torch
from persona.modules.render.mesh import (
    interpolate,
    rasterize,
    rasterize_uv,
)
from persona.types import Camera


def make_camera(height=48, width=40, focal=50.0, view=None):
    camera = Camera.identity(
        torch.tensor([focal, focal * 1.1]), torch.tensor([19.3, 25.1]), height, width
    )
    return camera if view is None else Camera(view, *list(vars(camera).values())[1:])


def triangle_soup(count, seed, near=1.0, far=4.0, size=0.6):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=generator)
    centres = (centres - 0.5) * torch.tensor([2.0, 2.0, 0.0])
    centres[..., 2] = near + (far - near) * torch.rand(count, 1, generator=generator)
    corners = centres + size * (torch.rand(count, 3, 3, generator=generator) - 0.5)
    return corners.reshape(-1, 3), torch.arange(3 * count).reshape(count, 3)


def random_rigid(seed):
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)
    shift = torch.randn(3, generator=generator, dtype=torch.float64)
    return rotation, shift


def cast_rays(vertices, faces, camera, near=0.01):
    """Moller-Trumbore on every (pixel, face): the independent oracle, in float64."""
    row, column = torch.meshgrid(
        torch.arange(camera.height), torch.arange(camera.width), indexing="ij"
    )
    pixel = torch.stack((column, row), -1).double() + 0.5
    ray = (pixel - camera.center_px.double()) / camera.focal_px.double()
    ray = torch.cat((ray, torch.ones(*ray.shape[:2], 1, dtype=torch.float64)), -1).view(-1, 1, 3)
    view = camera.cam_from_world.double()
    corners = (vertices.double() @ view[:3, :3].T + view[:3, 3])[faces]
    origin, one, two = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = torch.linalg.cross(ray, two.expand(len(ray), -1, -1))
    det = (one * p).sum(-1)
    u = (-origin * p).sum(-1) / det
    q = torch.linalg.cross(-origin, one)
    v = (ray * q).sum(-1) / det
    t = (two * q).sum(-1) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= near)
    depth, face = t.where(hit, math.inf).min(-1)
    bary = torch.stack((1 - u - v, u, v), -1).gather(1, face[:, None, None].expand(-1, 1, 3))[:, 0]
    empty = depth.isinf()
    shape = (camera.height, camera.width)
    return (
        face.where(~empty, -1).view(shape),
        bary.where(~empty[:, None], 0).view(*shape, 3),
        depth.where(~empty, 0).view(shape),
    )


def assert_agrees(render, face, bary, depth):
    # A pixel centre within rounding of an edge may go to either face; at most one does.
    same = render.face == face
    assert (~same).sum() <= 1
    torch.testing.assert_close(render.barycentric[same].double(), bary[same], atol=2e-5, rtol=0)
    torch.testing.assert_close(render.depth[same].double(), depth[same], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_ray_casting(seed):
    vertices, faces = triangle_soup(60, seed)
    camera = make_camera()
    render = rasterize(vertices, faces, camera)
    assert 0.2 < render.mask.float().mean() < 1
    assert_agrees(render, *cast_rays(vertices, faces, camera))


@pytest.mark.parametrize("seed", range(4))
def test_faces_across_the_camera_plane_are_cut_exactly(seed):
    vertices, faces = triangle_soup(12, seed, near=-0.5, far=1.5, size=2.0)
    camera = make_camera()
    z = vertices[faces][..., 2]
    assert ((z.amin(1) < 0) & (z.amax(1) > 0.1)).any()
    assert_agrees(rasterize(vertices, faces, camera), *cast_rays(vertices, faces, camera))


def test_faces_behind_the_camera_are_invisible():
    vertices, faces = triangle_soup(20, 0)
    assert not rasterize(vertices * torch.tensor([1.0, 1.0, -1.0]), faces, make_camera()).mask.any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cull", [False, True])
def test_torch_path_equals_the_bands(seed, cull, monkeypatch):
    vertices, faces = triangle_soup(80, seed, near=-0.2)
    camera = make_camera()
    scale = torch.cat((camera.focal_px, torch.ones(1)))
    corners = (vertices * scale + vertices[:, 2:] * torch.tensor([19.3, 25.1, 0]))[faces].double()
    monkeypatch.setattr(mesh_torch, "CHUNK_PAIRS", 1000)
    set_up = mesh_kernels.set_up_faces(corners.numpy(), 0.01, 48, 40, cull)
    expected = [torch.from_numpy(t) for t in mesh_kernels.fill_bands(*set_up, 0.01, 48, 40)]
    actual = mesh_torch.fill(*mesh_torch.set_up_faces(corners, 0.01, 48, 40, cull), 0.01, 48, 40)
    assert (expected[0] >= 0).any() and (actual[0] != expected[0]).sum() <= 1
    same = actual[0] == expected[0]
    for a, b in zip(actual[1:], expected[1:], strict=True):
        torch.testing.assert_close(a[same], b[same])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu():
    vertices, faces = triangle_soup(80, 1)
    camera = make_camera()
    expected = rasterize(vertices, faces, camera)
    actual = rasterize(vertices.cuda(), faces.cuda(), camera.to("cuda"))
    assert actual.face.is_cuda and (actual.face.cpu() != expected.face).sum() <= 1


def test_rigid_motion_of_scene_and_camera_changes_nothing():
    vertices, faces = triangle_soup(50, 5)
    rotation, shift = random_rigid(6)
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3], view[:3, 3] = rotation.T, -rotation.T @ shift
    moved = (vertices.double() @ rotation.T + shift).float()
    a = rasterize(vertices, faces, make_camera())
    b = rasterize(moved, faces, make_camera(view=view.float()))
    same = a.face == b.face
    assert same.float().mean() > 0.998
    torch.testing.assert_close(a.depth[same], b.depth[same], atol=1e-4, rtol=0)


def test_scale_about_the_camera_scales_depth_alone():
    vertices, faces = triangle_soup(50, 7)
    a = rasterize(vertices, faces, make_camera())
    b = rasterize(vertices * 4, faces, make_camera())
    assert torch.equal(a.face, b.face)
    torch.testing.assert_close(4 * a.depth, b.depth)
    torch.testing.assert_close(a.barycentric, b.barycentric)


def test_crop_of_the_camera_crops_the_render():
    vertices, faces = triangle_soup(50, 8)
    camera = make_camera()
    box = torch.tensor([8.0, 10.0, 20.0, 30.0])
    full = rasterize(vertices, faces, camera)
    part = rasterize(vertices, faces, camera.crop(box, 30, 20))
    assert (part.face != full.face[10:40, 8:28]).sum() <= 1


def fan_and_grid(size):
    """A grid whose shared edges pass exactly through pixel centres."""
    steps = torch.arange(size + 1).float() + 0.5
    x, y = (t.reshape(-1) for t in torch.meshgrid(steps, steps, indexing="xy"))
    a = (torch.arange(size)[:, None] * (size + 1) + torch.arange(size)).reshape(-1)
    b, c, d = a + 1, a + size + 1, a + size + 2
    faces = torch.cat((torch.stack((a, c, d), -1), torch.stack((a, d, b), -1)))
    return torch.stack((x, y, torch.ones_like(x)), -1), faces


def test_shared_edges_leave_no_holes_and_no_double_cover():
    size = 12
    vertices, faces = fan_and_grid(size)
    camera = Camera.identity(torch.ones(2), torch.zeros(2), size + 2, size + 2)
    count = torch.zeros(size + 2, size + 2)
    for face in faces:
        count += rasterize(vertices, face[None], camera).mask
    # Every pixel centre is a grid vertex: interior ones belong to exactly one face.
    assert (count[1:size, 1:size] == 1).all() and (count <= 1).all()
    assert count.sum() == size * size


def test_closed_surface_has_no_cracks():
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    vertices = torch.tensor(sphere.vertices).float() + torch.tensor([0.0, 0.0, 2.0])
    faces = torch.tensor(sphere.faces)
    camera = Camera.identity(torch.tensor([160.0, 160.0]), torch.tensor([48.0, 48.0]), 96, 96)
    render = rasterize(vertices, faces, camera, cull_backfaces=True)
    # A hole would show the far side or, with culling, nothing.
    full = rasterize(vertices, faces, camera)
    assert torch.equal(render.face, full.face)
    assert len(render.face[render.mask].unique()) < 0.5 * len(faces)


def test_culling_keeps_the_faces_whose_normal_meets_the_camera():
    front = torch.tensor([[-1.0, -1, 2], [-1, 1, 2], [1, 0, 2]])
    # y points down, so this order is counter-clockwise as seen from the camera.
    faces = torch.tensor([[0, 1, 2]])
    normal = torch.linalg.cross(front[1] - front[0], front[2] - front[0])
    assert normal[2] < 0
    assert rasterize(front, faces, make_camera(), cull_backfaces=True).mask.any()
    assert not rasterize(front, faces.flip(1), make_camera(), cull_backfaces=True).mask.any()


def test_interpolation_is_perspective_correct_and_differentiable():
    vertices = torch.tensor([[-2.0, -1, 1], [2, -1, 5], [0, 2, 3]])
    faces, camera = torch.tensor([[0, 1, 2]]), make_camera()
    render = rasterize(vertices, faces, camera)
    features = vertices.clone().requires_grad_()
    points = interpolate(render, faces, features)
    torch.testing.assert_close(points[..., 2].detach(), render.depth)
    row, column = torch.nonzero(render.mask).T
    pixels = camera.project(points[render.mask].detach())
    torch.testing.assert_close(pixels, torch.stack((column, row), -1) + 0.5, atol=1e-3, rtol=0)
    points.sum().backward()
    torch.testing.assert_close(features.grad.sum(0), render.mask.sum().float().expand(3))


def test_uv_render_puts_v_up_and_texel_centres_at_half():
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    render = rasterize_uv(uv, faces, 8)
    assert render.mask.all()
    at = interpolate(render, faces, uv)
    centres = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(at[..., 0], centres.expand(8, 8))
    torch.testing.assert_close(at[..., 1], (1 - centres)[:, None].expand(8, 8))


def test_empty_mesh_renders_empty():
    render = rasterize(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64), make_camera())
    assert not render.mask.any() and (render.depth == 0).all()
