"""The fit of a head finds what drew the landmarks."""

import pytest
import torch
from torch import Tensor

from persona.data.heads.fit import _Marks, _Unknowns, fit_head
from persona.modules.body.head_body import HeadBody
from persona.modules.detect.face import Face
from persona.types import Camera

CAMERA = Camera.identity(torch.tensor([900.0, 900.0]), torch.tensor([150.0, 150.0]), 300, 300)


def drawn(body: HeadBody) -> tuple[list[Face], Tensor, Tensor]:
    """Two pictures of a person: faces, turns of the neck, and places."""
    unknowns = _Unknowns(body, torch.tensor([[0.0, 0.05, 1.6], [0.03, 0.06, 1.7]]))
    with torch.no_grad():
        unknowns.betas[:4] = torch.tensor([0.8, -0.6, 0.5, 0.3])
        unknowns.neck[0, 1], unknowns.neck[1, 1] = 0.4, 0.3
        unknowns.expression[:, body.expression_names.index("jawOpen")] = 0.5
        unknowns.eyes[:, 1] = 0.2
        points, irises = _Marks(body).projected(unknowns, CAMERA)
    faces = [Face(p, i) for p, i in zip(points, irises, strict=True)]
    return faces, unknowns.neck.detach(), unknowns.trans.detach()


def test_a_few_vertices_have_the_landmarks_of_all():
    """The whole body, posed by the same unknowns, is the oracle."""
    body = HeadBody()
    unknowns = _Unknowns(body, torch.tensor([[0.0, 0.05, 1.6]]))
    with torch.no_grad():
        for values in (unknowns.betas, unknowns.expression, unknowns.neck, unknowns.jaw):
            values.copy_(0.3 * torch.rand(values.shape, generator=torch.manual_seed(0)))
        points, _ = _Marks(body).projected(unknowns, CAMERA)
        identity = body.zero_identity()
        identity = type(identity)(unknowns.betas, identity.face_offset, identity.joint_offset)
        vertices, _ = body(identity, unknowns.poses(body.num_expression)[0])
        expected = CAMERA.project(body.landmarks(vertices))
    torch.testing.assert_close(points[0], expected, atol=2e-2, rtol=0)


@pytest.mark.slow
def test_the_fit_finds_turn_and_mouth():
    """How far away a head is and how large it is cannot be told apart, so neither is asked for."""
    body = HeadBody()
    faces, necks, _ = drawn(body)
    fit = fit_head(body, faces, CAMERA, steps=250)
    assert fit.residual < 0.02
    assert (fit.poses.body[:, 11, 1] - necks[:, 1]).abs().max() < 0.12
    opened = fit.poses.expression[:, body.expression_names.index("jawOpen")]
    assert (0.3 * opened + fit.poses.jaw[:, 0]).min() > 0.05
