"""A photograph read by the body that is in it: what each query point shows, and the head's crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from persona.modules.body.joints import HEAD_JOINTS
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.photo import network_image, square_crop
from persona.modules.lhm.template import PointTemplate
from persona.modules.nearest import nearest_marked
from persona.modules.render.mesh import rasterize
from persona.types import BodyIdentity, Camera, Pose, TensorTuple

REACH_M = (0.03, 0.06, 0.12, 0.24)
"""Distances from the skin, along the normal, at which a point also samples the photo, for clothes
and hair."""
SIGHT_PARTS = (3, 1, 1, 1, 2, 4 * len(REACH_M))
"""Colour, mask, cosine of the angle to the viewer, whether nothing lies before it, place in the
network's image from -1 to 1 (x, y), and colour and mask at each of ``REACH_M``."""
_HEAD_MARGIN = 1.3
_HIDDEN_M = 0.02
"""A point so far behind the nearest surface is hidden."""
_RIM = 1 / 300
"""Width of the outline that shows some of the background, by the person's height."""


@dataclass(frozen=True)
class Photo(TensorTuple):
    """Photographs of a batch of people as the networks take them; all in [0, 1], on white."""

    image: Float[Tensor, "*b 3 h w"]
    head: Float[Tensor, "*b 3 s s"]
    sight: Float[Tensor, "*b n k"]
    """Values for each query point; see ``SIGHT_PARTS``. k is 0 for networks that do not use them.
    """


@dataclass(frozen=True)
class PosedBody(TensorTuple):
    """The body that was fitted to a photograph, in the camera's frame, metres."""

    vertices: Float[Tensor, "p 3"]
    faces: Int[Tensor, "f 3"]
    points: Float[Tensor, "n 3"]
    """The query points on it."""
    normals: Float[Tensor, "n 3"]
    """Normals of the body there."""
    head: Float[Tensor, "k 3"]
    """Those that are the head's."""


@torch.no_grad()
def posed_body(
    body: SmplxBody,
    identity: BodyIdentity,
    template: PointTemplate,
    vertex: Int[Tensor, "n"],
    pose: Pose,
) -> PosedBody:
    """A bare body in a pose, with its query points.

    Args:
        body: Body of the template.
        identity: The person's.
        template: Query points.
        vertex: Nearest to each.
        pose: Pose of the photograph.
    """
    dressed, joints = body.shape(identity)
    rest = dressed - identity.face_offset
    bones = body.transforms_from_matrices(joints, pose.rotations)
    moved = rest + body.expr_dirs @ pose.expression
    vertices = blend_skin(moved, body.weights, bones) + pose.trans
    zeros, count = template.points.new_zeros, len(vertex)
    turns = torch.eye(1, 4).to(template.points).expand(count, 4)
    still = PointGaussians(zeros(count, 3), zeros(count, 3), turns, zeros(count), zeros(count, 3))
    shape = (rest - body.template)[vertex]
    points = template.pose(still, shape, pose.expression, bones, pose.trans).means
    head = points[template.joint_points(HEAD_JOINTS)]
    normals = vertex_normals(vertices, body.faces)[vertex]
    return PosedBody(vertices, body.faces, points, normals, head)


@torch.no_grad()
def point_sight(
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    camera: Camera,
    body: PosedBody,
    place: Float[Tensor, "2 2"],
) -> Float[Tensor, "n 24"]:
    """What a photograph shows where each point of the body lies.

    Args:
        image: On white.
        mask: Mask of the person.
        camera: The photograph's, its world is the body's.
        body: As it stands there.
        place: Scale and shift (x, y) from its pixels to the network's image, -1 to 1.
    """
    height, width = mask.shape[1:]
    size = body.points.new_tensor([width, height])
    reach = body.points.new_tensor((0.0, *REACH_M))[:, None, None]
    pixels = camera.project((body.points + reach * body.normals).flatten(0, 1))
    layers = torch.cat((image, mask))[None]
    grid = (2 * pixels / size - 1)[None, None]
    seen = F.grid_sample(layers, grid, padding_mode="zeros", align_corners=False)[0, :, 0].T
    seen, around = seen.unflatten(0, (len(reach), -1)).split([1, len(reach) - 1])
    pixels = pixels[: len(body.points)]
    facing = -(body.normals * F.normalize(body.points, dim=-1)).sum(-1, keepdim=True)
    depth = rasterize(body.vertices, body.faces, camera).depth
    column, row = pixels.long().clamp(min=0).minimum((size - 1).long()).unbind(-1)
    near = depth[row, column]
    free = (near == 0) | (body.points[:, 2] < near + _HIDDEN_M)
    inside = ((pixels >= 0) & (pixels < size)).all(-1)
    free = (free & inside).float()[:, None]
    aside = around.transpose(0, 1).flatten(1)
    return torch.cat((seen[0], facing, free, pixels * place[0] + place[1], aside), -1)


def _place(before: Bool[ndarray, "h w"], after: Bool[ndarray, "h2 w2"]) -> Float[Tensor, "2 2"]:
    """Scale and shift (x, y) from pixels of one mask to the other's image, -1 to 1.

    By the boxes of the masks, to about a pixel: the image was cut and resized in several steps.
    """
    (low, high), (low2, high2) = (
        np.array([[found.min(), found.max() + 1] for found in mask.nonzero()[::-1]]).T
        for mask in (before, after)
    )
    scale, half = (high2 - low2) / (high - low), np.array(after.shape[::-1]) / 2
    values = np.stack((scale / half, (low2 - scale * low) / half - 1))
    return torch.from_numpy(values).float()


def clean_outline(
    image: Float[Tensor, "3 h w"], person: Bool[ndarray, "h w"]
) -> Float[Tensor, "3 h w"]:
    """The image with the background's colour taken out of the person's outline.

    Pixels within ``_RIM`` of the background show some of it, and a misfit mask more. They take the
    colour of the nearest pixel inside; a person without an inside is left alone.

    Args:
        image: RGB.
        person: Where the person is.
    """
    radius = max(1.0, _RIM * person.any(1).sum())
    inside = distance_transform_edt(person) > radius
    if not inside.any():
        return image
    row, column = nearest_marked(inside)
    return image[:, torch.from_numpy(row), torch.from_numpy(column)]


def read_photo(
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    camera: Camera,
    body: PosedBody,
    *,
    photo_px: int,
    head_px: int,
    sees: bool,
) -> Photo:
    """One photograph as a network takes it.

    Args:
        image: RGB in [0, 1].
        mask: Mask of the person.
        camera: The photograph's, its world is the body's.
        body: As it stands there.
        photo_px: Width of the body's image.
        head_px: Side of the head's crop.
        sees: Whether the network looks up what its points show.

    Raises:
        UserError: nobody is there, or who is there is wider than tall.
    """
    person = mask[0].numpy() > 0.5
    # The published networks were trained on outlines that were not cleaned.
    white = (clean_outline(image, person) if sees else image) * mask + 1 - mask
    pixels = (white.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    small, alpha = network_image(pixels, person, photo_px)
    corners = camera.project(body.head)
    low, high = corners.amin(0), corners.amax(0)
    middle, half = (low + high) / 2, (high - low) * (_HEAD_MARGIN / 2)
    box = torch.cat((middle - half, middle + half)).numpy()
    head = square_crop(white.permute(1, 2, 0).contiguous().numpy(), box, head_px)
    sight = white.new_zeros(len(body.points), 0)
    return Photo(
        torch.from_numpy(small).permute(2, 0, 1).contiguous(),
        torch.from_numpy(head).permute(2, 0, 1).contiguous(),
        point_sight(white, mask, camera, body, _place(person, alpha > 0.5)) if sees else sight,
    )
