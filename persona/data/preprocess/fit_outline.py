"""Turns and places a dressed body in a photograph by its outline.

In hair and clothes a body is one surface, whose outline each photograph shows to the pixel, while
what is read there of the joints of a back or a profile is off by several centimetres.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from persona.data.preprocess.clothing import Photo, dressed_as
from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.fit_terms import CROP_SIDE, CropSpace, SilhouetteTerm, outline_vertices
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity

_STEPS, _LR, _REFRESH = 120, 0.004, 10
"""Adam's steps, their length at first (metres and radians), and how many share an outline."""
_INSIDE = 4.0
"""Weight of staying in the mask beside that of reaching its outline."""
_SIGMA = 0.03
"""Robustness of the outline, fraction of the crop's side."""
_SAMPLES = 1200


def placed_by_outline(body: SmplxBody, photo: Photo, identity: BodyIdentity) -> BodyFit:
    """The naked fit, turned and placed so that the dressed body has the photograph's outline.

    Args:
        body: Body model.
        photo: The naked fit to a photograph; its stance and shape stay.
        identity: The same shape, dressed.
    """
    naked, detection, camera = photo
    dressed = dressed_as(body, naked, identity)
    with torch.no_grad():
        root = body.shape(naked.identity)[1][0] + naked.pose.trans
        around = body(dressed.identity, dressed.pose)[0] - root
    silhouette = SilhouetteTerm(detection, CropSpace(detection.keypoints), _SAMPLES)
    turn, shift = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([turn, shift], lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS, _LR / 10)
    match = torch.zeros(0, dtype=torch.long)
    for step in range(_STEPS):
        vertices = around @ matrix_from_axis_angle(turn).T + root + shift
        pixels = camera.project(vertices)
        if step % _REFRESH == 0:
            rim, normals = outline_vertices(vertices.detach(), body.faces, camera)
            match = silhouette.match(pixels, normals, rim)
        reached = silhouette.outline(pixels, match, CROP_SIDE * _SIGMA)
        optimizer.zero_grad()
        (_INSIDE * silhouette.inside(pixels) + reached).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        turned = matrix_from_axis_angle(turn) @ matrix_from_axis_angle(naked.pose.root)
        trans = naked.pose.trans + shift
        pose = replace(naked.pose, root=axis_angle_from_matrix(turned), trans=trans)
    return replace(naked, pose=pose)
