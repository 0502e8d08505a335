"""A tiny head with five joints, frames of it with and without a hat, and their data module."""

from dataclasses import fields
from types import SimpleNamespace

import lightning
import numpy as np
import torch

from persona.data.datamodule import FrameLoader
from persona.data.frames import FrameDataset
from persona.data.subject import Subject
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.base import Body
from persona.modules.body.skinning import blend_skin
from persona.modules.render.cpu import CpuRenderer
from persona.types import BodyIdentity, BodyPose, Camera, Channel, Frame, Gaussians

VERTICES, SIDE = 120, 24
NAMES = ("9999_source", "0001_hat_red_pointed", "0002_hat_round")
FRAMES = 3
"""Frames of each person."""
HATS = (None, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
"""Colour of each person's hat."""


class TinyHead(Body):
    """Vertices spread over a sphere with a radius of 10 cm; the lower half follows the jaw."""

    num_expression, num_betas, num_vertices = 2, 2, VERTICES
    first_hand, name, digest = 5, "tiny_head", "0" * 16

    def __init__(self):
        super().__init__([-1, 0, 1, 1, 1])
        generator = torch.Generator().manual_seed(0)

        def noise(*shape):
            return torch.randn(*shape, generator=generator)

        template = 0.1 * torch.nn.functional.normalize(noise(VERTICES, 3), dim=1)
        below = (template[:, 1] < 0).float()
        weights = torch.zeros(VERTICES, 5)
        weights[:, 2], weights[:, 1] = below, 1 - below
        joints = torch.tensor(
            [[0, -0.2, 0], [0, -0.1, 0], [0, 0, 0.02], [0.03, 0.03, 0.08], [-0.03, 0.03, 0.08]]
        )
        regressor = torch.linalg.lstsq(template.T, joints.T).solution.T
        arrays = {
            "template": template, "weights": weights, "joint_regressor": regressor,
            "shape_dirs": 0.01 * noise(VERTICES, 3, 2), "expr_dirs": 0.01 * noise(VERTICES, 3, 2),
            "pose_dirs": torch.zeros(VERTICES, 3, 0),
            "pose_features": torch.zeros(0, dtype=torch.long),
            "faces": torch.tensor([[0, 1, 2]]),
        }  # fmt: skip
        for key, value in arrays.items():
            self.register_buffer(key, value, persistent=False)

    def zero_identity(self):
        return BodyIdentity(torch.zeros(2), torch.zeros(VERTICES, 3), torch.zeros(5, 3))

    def shape(self, identity):
        rest = self.template + identity.face_offset + self.shape_dirs @ identity.betas
        return rest, self.joint_regressor @ rest + identity.joint_offset

    def full_pose(self, pose):
        joints = (pose.root, pose.body[..., 11, :], pose.jaw, pose.left_eye, pose.right_eye)
        return torch.stack(joints, -2)


def head_poses(count, seed=0):
    """Poses of an upright head that turns and opens its mouth in front of the camera."""
    generator = torch.Generator().manual_seed(seed)
    pose = BodyPose.zero(2, (count,))
    parts = {f.name: getattr(pose, f.name) for f in fields(pose)}
    parts["root"] = torch.tensor([torch.pi, 0, 0]).expand(count, 3).clone()
    parts["body"] = parts["body"].clone()
    parts["body"][:, 11, 1] = 0.5 * (torch.rand(count, generator=generator) - 0.5)
    parts["jaw"] = torch.zeros(count, 3)
    parts["jaw"][:, 0] = 0.3 * torch.rand(count, generator=generator)
    parts["expression"] = torch.randn(count, 2, generator=generator)
    parts["trans"] = torch.tensor([0.0, 0.4, 0.8]).expand(count, 3)
    return BodyPose(**parts)


def draw(body, pose, hat):
    """Renders the true frame: vertices as opaque balls, coloured by position or by the hat."""
    state, identity = matrix_pose(body, pose), body.zero_identity()
    rest, joints = body.shape(identity)
    rest = rest + body.expr_dirs @ state.expression
    means = blend_skin(rest, body.weights, body.transforms_from_matrices(joints, state.rotations))
    colors = body.template * 4 + 0.5
    if hat is not None:
        colors[body.template[:, 1] > 0.05] = torch.tensor(hat)
    balls = Gaussians(
        means + state.trans, torch.full((VERTICES, 3), 0.015),
        torch.eye(1, 4).expand(VERTICES, 4), torch.ones(VERTICES),
    )  # fmt: skip
    camera = Camera.identity(torch.full((2,), 60.0), torch.full((2,), SIDE / 2), SIDE, SIDE)
    render = CpuRenderer()(balls, camera, {"rgb": Channel(colors)})
    return (render.images["rgb"] + 1 - render.alpha).clamp(0, 1), render.alpha.clamp(0, 1), camera


def frame(body, poses, row, subject, index):
    image, mask, camera = draw(body, poses[row], HATS[subject])
    own, other = (2, 0) if subject == 2 else (0, 1)
    hat = (image[own, None] > 0.7) & (image[other, None] < 0.4)
    one = {
        "image": image, "mask": mask, "albedo": torch.ones_like(image),
        "depth": torch.zeros_like(mask), "normal": torch.full_like(image, 0.5),
        "seg": torch.zeros_like(image), "patch": torch.zeros(3, 8, 8),
        "patch_box_px": torch.zeros(4),
    }  # fmt: skip
    return Frame(
        index=torch.tensor([index]), subject=torch.tensor([subject]),
        camera=Camera(camera.cam_from_world[None], camera.focal_px[None], camera.center_px[None],
                      SIDE, SIDE),
        **{k: v[None] for k, v in one.items()}, name=(f"captured/{index}",), role=("captured",),
        person_px=(float(SIDE),), has_patch=(False,), person_box_px=((0, 0, SIDE, SIDE),),
        others={"edit": (hat & (mask > 0.5)).float()[None]},
    )  # fmt: skip


class Frames(FrameDataset):
    """The parts of a frame data set that ``Fit`` uses."""

    roles = stores = lengths = ()
    feed = None

    def __init__(self, body, people, seed):
        self.states = head_poses(FRAMES * people, seed)
        self.frames = [
            frame(body, self.states, row, row // FRAMES, row) for row in range(FRAMES * people)
        ]
        self.roles = ["captured"] * len(self.frames)
        self.stores = [SimpleNamespace(size=(SIDE, SIDE))]
        self.lengths = [len(self.frames)]

    def __getitem__(self, rows):
        (row,) = rows
        return self.frames[row]

    def __len__(self):
        return len(self.frames)

    def rows_of(self, subject):
        return range(FRAMES * subject, FRAMES * (subject + 1))

    def poses(self, num_expression):
        return self.states


class Edit(Subject):
    """The parts of a subject that methods use, without a folder."""

    name, info = "", None

    def __init__(self, name, frames):
        self.name, self.frames = name, frames

    def identity(self, body):
        return body.zero_identity()

    def frame_ids(self, split):
        return [0]

    def image(self, split, number):
        return (self.frames[number].image[0] * 255).byte().permute(1, 2, 0).numpy()

    def mask(self, split, number):
        return (self.frames[number].mask[0, 0] > 0.5).numpy().astype(np.bool_)


class TinyHeads(lightning.LightningDataModule):
    """Data of the person without and with a hat.

    Args:
        body: Of the person.
        people: The person and its edits.
        learn: The only one of them whose frames train; None trains all.
    """

    batch_size, test_split = 1, "test"

    def __init__(self, body, people=2, learn=None):
        super().__init__()
        self.learn = learn
        self.train_frames, self.test_frames = Frames(body, people, 0), Frames(body, people, 1)
        self.subjects = tuple(
            Edit(NAMES[i], self.train_frames.frames[i * FRAMES :]) for i in range(people)
        )

    @property
    def subject(self):
        (only,) = self.subjects
        return only

    def train_dataloader(self):
        order = torch.randperm(len(self.train_frames)).tolist()
        if self.learn is not None:
            order = [row for row in order if row // FRAMES == self.learn]
        return FrameLoader(self.train_frames, [[row] for row in order])

    def test_dataloader(self):
        return FrameLoader(self.test_frames, [[row] for row in range(len(self.test_frames))])

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch.to(device)
