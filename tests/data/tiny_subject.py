"""A subject folder of a few 32 x 24 frames with random but valid content."""

from dataclasses import dataclass

import numpy as np
import torch

from persona.data.layout import FrameData, SubjectInfo, Textures
from persona.data.palette import PART_COLOURS
from persona.data.subject_writer import SubjectWriter
from persona.types import BodyIdentity, BodyPose, Camera

VERTICES, BETAS, EXPRESSIONS = 20, 10, 5


@dataclass
class TinyBody:
    """The attributes of a body that a subject reads."""

    name: str = "tiny"
    digest: str = "0123456789"
    num_betas: int = BETAS
    num_vertices: int = VERTICES
    num_joints: int = 55


def random_pose(generator, num_expression=EXPRESSIONS):
    zero = BodyPose.zero(num_expression)
    fields = {k: torch.randn(v.shape, generator=generator) for k, v in vars(zero).items()}
    return BodyPose(**fields)


def random_frame(seed, height=32, width=24, captured=False):
    """A frame of which all fields are random."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def pixels(h=height, w=width):
        return random.integers(0, 256, (h, w, 3), dtype=np.uint8)

    normal = random.standard_normal((height, width, 3))
    extrinsics = torch.eye(4)
    extrinsics[:3] = torch.randn(3, 4, generator=generator)
    return FrameData(
        image=pixels(),
        mask=random.random((height, width)) > 0.4,
        camera=Camera(
            extrinsics,
            torch.tensor([50.1, 51.3]),
            torch.tensor([width / 2 + 0.3, height / 2]),
            height,
            width,
        ),
        pose=random_pose(generator),
        depth=random.random((height, width), dtype=np.float32) + 1,
        normal=(normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32),
        seg=PART_COLOURS[random.integers(0, 28, (height, width))],
        depth_mask=random.random((height, width)) > 0.4,
        normal_mask=random.random((height, width)) > 0.4,
        seg_mask=random.random((height, width)) > 0.4,
        albedo=pixels() if captured else None,
        patch=pixels(16, 16) if captured else None,
        patch_box_px=np.array([4, 3, 9.5, 9.5], np.float32) if captured else None,
        keypoints=random.random((133, 3), dtype=np.float32),
    )


def random_identity(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"betas": (BETAS,), "face_offset": (VERTICES, 3), "joint_offset": (55, 3)}
    arrays = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    arrays["joint_offset"][0] = 0
    return BodyIdentity(**arrays)


def random_textures(seed=0, size=8):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    return Textures(images[0], random.random((size, size)) > 0.5, images[1], images[2])


def write_tiny_subject(root, counts=None, sizes=None, info=True, form="raw"):
    """Writes a subject; ``counts`` and ``sizes`` (height, width) by split. Raw maps are exact."""
    writer = SubjectWriter(root, form=form)
    counts = counts or {"captured": 1, "generated_0": 3, "generated_1": 2, "test": 3}
    for which, (split, count) in enumerate(counts.items()):
        height, width = (sizes or {}).get(split, (32, 24))
        for number in range(count):
            frame = random_frame(100 * which + number, height, width, split == "captured")
            writer.write_frame(split, number, frame)
        writer.write_split(split, range(count))
    writer.write_identity(random_identity())
    for split in ("captured", "generated_0"):
        if split in counts:
            writer.write_textures(split, random_textures())
    if info:
        writer.finish(SubjectInfo("tiny", "0123456789", "synthetic seed=0", "random"))
    return root
