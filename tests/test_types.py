"""The types that all parts share, against values worked out by hand."""

from dataclasses import replace

import pytest
import torch

from persona.types import (
    NUM_JOINTS,
    PLAIN_VIEW,
    BodyPose,
    Camera,
    Frame,
    MeshRender,
    Pose,
)


@pytest.fixture
def camera() -> Camera:
    """At (1, 2, -3) in the world, looking along the world's x; its own x axis is the world's -z."""
    cam_from_world = torch.tensor(
        [[0.0, 0, -1, -3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]]
    )  # fmt: skip
    focal, center = torch.tensor([100.0, 50.0]), torch.tensor([30.0, 20.0])
    return Camera(cam_from_world, focal, center, 40, 60)


def test_project_by_hand(camera):
    """In the camera's frame the points are (0, 0, 2), on the axis, and (0.4, 0.8, 4)."""
    points = torch.tensor([[3.0, 2, -3], [5.0, 2.8, -3.4]])
    torch.testing.assert_close(camera.project(points), torch.tensor([[30.0, 20.0], [40.0, 30.0]]))


def test_project_takes_batches(camera):
    points = torch.tensor([[5.0, 2.8, -3.4]])
    both = Camera(
        torch.stack([camera.cam_from_world, torch.eye(4)]),
        torch.tensor([[100.0, 50.0], [10.0, 20.0]]),
        torch.tensor([[30.0, 20.0], [0.0, 1.0]]),
        40,
        60,
    )
    # The second camera's frame is the world's: 10 * 5 / -3.4 and 20 * 2.8 / -3.4 + 1.
    expected = torch.tensor([[[40.0, 30.0]], [[-50 / 3.4, 1 - 56 / 3.4]]])
    torch.testing.assert_close(both.project(points.expand(2, 1, 3)), expected)
    torch.testing.assert_close(both[0].project(points), expected[0])


def test_local_keeps_the_intrinsics_alone(camera):
    local = camera.local()
    assert torch.equal(local.cam_from_world, torch.eye(4))
    assert torch.equal(local.focal_px, camera.focal_px)
    assert torch.equal(local.center_px, camera.center_px)
    assert (local.height, local.width) == (40, 60)
    torch.testing.assert_close(local.project(torch.tensor([[0.4, 0.8, 4.0]])),
                               torch.tensor([[40.0, 30.0]]))  # fmt: skip


def test_crop_moves_and_stretches_pixels(camera):
    """The box (10, 5, 20, 30) becomes 60 x 80: columns are stretched by 4, rows by 2."""
    cropped = camera.crop(torch.tensor([10.0, 5.0, 20.0, 30.0]), height=60, width=80)
    assert (cropped.height, cropped.width) == (60, 80)
    torch.testing.assert_close(cropped.focal_px, torch.tensor([400.0, 100.0]))
    torch.testing.assert_close(cropped.center_px, torch.tensor([80.0, 30.0]))
    point = torch.tensor([[5.0, 2.8, -3.4]])
    # Pixel (40, 30) is (30, 25) from the box's corner.
    torch.testing.assert_close(cropped.project(point), torch.tensor([[120.0, 50.0]]))


def test_resize_is_the_crop_of_the_whole(camera):
    resized = camera.resize(20, 90)
    assert (resized.height, resized.width) == (20, 90)
    torch.testing.assert_close(resized.focal_px, torch.tensor([150.0, 25.0]))
    torch.testing.assert_close(resized.center_px, torch.tensor([45.0, 10.0]))
    assert torch.equal(resized.cam_from_world, camera.cam_from_world)


def numbered_pose(batch: tuple[int, ...] = ()) -> BodyPose:
    """Each joint's x is its number in SMPL-X."""
    joints = torch.zeros(*batch, NUM_JOINTS, 3)
    joints[..., 0] = torch.arange(NUM_JOINTS)
    return BodyPose.from_joints(joints, torch.zeros(*batch, 4), torch.zeros(*batch, 3))


def test_joints_are_in_the_order_of_smplx():
    pose = numbered_pose()
    order = {
        "root": [0], "body": [*range(1, 22)], "jaw": [22], "left_eye": [23], "right_eye": [24],
        "left_hand": [*range(25, 40)], "right_hand": [*range(40, 55)],
    }  # fmt: skip
    for name, places in order.items():
        assert getattr(pose, name).view(-1, 3)[:, 0].tolist() == places, name
    assert pose.joints[:, 0].tolist() == [*range(55)]
    batched = numbered_pose((2, 3))
    assert batched.root.shape == (2, 3, 3) and batched.left_hand.shape == (2, 3, 15, 3)
    assert torch.equal(batched.joints[1, 2], pose.joints)


def test_the_zero_pose():
    pose = BodyPose.zero(7, (2,))
    assert pose.joints.shape == (2, 55, 3) and not pose.joints.any()
    assert pose.expression.shape == (2, 7) and pose.trans.shape == (2, 3)


def test_a_tensor_tuple_maps_its_tensors_alone(camera):
    moved = camera.to(torch.float64)
    assert moved.focal_px.dtype == torch.float64 and moved.height == 40
    leaf = replace(camera, focal_px=camera.focal_px.clone().requires_grad_())
    assert not leaf.detach().focal_px.requires_grad and leaf.focal_px.requires_grad
    rows = numbered_pose((4,))
    rows = replace(rows, trans=torch.arange(12.0).view(4, 3))
    assert rows[1:3].trans.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert rows[2].trans.tolist() == [6, 7, 8] and rows[2].body.shape == (21, 3)


def test_a_mesh_render_covers_where_there_is_a_face():
    face = torch.tensor([[-1, 0], [5, -1]])
    render = MeshRender(face, torch.zeros(2, 2, 3), torch.zeros(2, 2))
    assert render.mask.tolist() == [[False, True], [True, False]]


@pytest.fixture
def frames() -> Frame:
    """Three frames, whose images, focal lengths and boxes contain the frame's number."""
    number = torch.arange(3.0)
    image = number.view(3, 1, 1, 1).expand(3, 3, 4, 6)
    return Frame(
        index=torch.tensor([7, 8, 9]),
        subject=torch.tensor([0, 0, 1]),
        camera=Camera(
            torch.eye(4).expand(3, 4, 4), number.view(3, 1) + torch.tensor([1.0, 2.0]),
            torch.zeros(3, 2), 4, 6,
        ),
        image=image, mask=image[:, :1], albedo=image, depth=image[:, :1], normal=image, seg=image,
        patch=image[..., :4, :4], patch_box_px=number.view(3, 1).expand(3, 4),
        name=("captured/0", "generated_0/1", "generated_0/2"),
        role=("captured", "generated", "real"),
        person_px=(3.0, 4.0, 5.0),
        has_patch=(True, False, False),
        person_box_px=((0, 0, 1, 3), (1, 1, 2, 4), (2, 2, 3, 5)),
    )  # fmt: skip


def test_a_part_of_a_batch_has_its_camera_and_lists(frames):
    part = replace(frames, weight=(2.0, 0.5, 0.25))[1:]
    assert part.index.tolist() == [8, 9] and part.subject.tolist() == [0, 1]
    assert part.image[:, 0, 0, 0].tolist() == [1, 2]
    assert part.camera.focal_px.tolist() == [[2, 3], [3, 4]]
    assert part.name == ("generated_0/1", "generated_0/2") and part.person_px == (4.0, 5.0)
    assert part.role == ("generated", "real")
    assert part.has_patch == (False, False) and part.weight == (0.5, 0.25)
    assert part.person_box_px == ((1, 1, 2, 4), (2, 2, 3, 5))
    assert frames[1:].weight == ()


def test_a_frames_view_has_its_cameras_rotation_and_its_subject(frames, camera):
    cameras = replace(frames.camera, cam_from_world=camera.cam_from_world.expand(3, 4, 4))
    seen = replace(frames, camera=cameras)
    view = seen[2:].view
    assert view.camera_rotation.tolist() == [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    assert view.subject == 1 and view.latent is None
    moved = view.to("meta")
    assert moved.camera_rotation.is_meta and moved.subject.is_meta and moved.latent is None
    assert PLAIN_VIEW.detach() == PLAIN_VIEW


def test_a_pose_has_as_many_joints_as_its_body():
    for joints in (5, 55):
        clip = Pose(torch.eye(3).expand(4, joints, 3, 3), torch.zeros(4, 2), torch.zeros(4, 3))
        assert clip[2].rotations.shape == (joints, 3, 3) and clip[2].trans.shape == (3,)


def test_a_batch_moves_with_its_camera(frames):
    moved = frames.to("meta")
    assert moved.image.device.type == moved.camera.focal_px.device.type == "meta"
    assert moved.name == frames.name


def test_shares_of_a_batchs_loss(frames):
    assert frames.shares == [1 / 3] * 3
    # A frame of weight 3 counts as three frames of weight 1.
    assert replace(frames, weight=(3.0, 0.6, 0.6)).shares == pytest.approx([1.0, 0.2, 0.2])
    assert replace(frames[:1], weight=(1.5,)).shares == [1.5]
