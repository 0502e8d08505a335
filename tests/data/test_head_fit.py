"""The fit of a head finds the parameters from which landmarks were drawn."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from persona.data.heads.fit import UNEVEN, UNIT, HeadMarks, _prior, _Unknowns, fit_head
from persona.modules.body.head_body import HeadBody
from persona.modules.detect.face import Face
from persona.types import Camera

CAMERA = Camera.identity(torch.tensor([900.0, 900.0]), torch.tensor([150.0, 150.0]), 300, 300)


def drawn(body: HeadBody) -> tuple[list[Face], _Unknowns]:
    """Landmarks of one person in two pictures, and the true unknowns."""
    start = _Unknowns.zero(body, torch.tensor([[0.0, 0.05, 1.6], [0.03, 0.06, 1.7]]))
    start.betas[:4] = torch.tensor([0.8, -0.6, 0.5, 0.3])
    start.neck[0, 1], start.neck[1, 1] = 0.4, 0.3
    start.expression[:, body.expression_names.index("jawOpen")] = 0.5
    start.eyes[:, 1] = 0.2
    points, irises = HeadMarks(body).projected(start, CAMERA)
    return [Face(p, i) for p, i in zip(points, irises, strict=True)], start


def test_a_few_vertices_have_the_landmarks_of_all():
    """The oracle is the complete body, posed by the same unknowns; bound in pixels."""
    body = HeadBody()
    zero = _Unknowns.zero(body, torch.tensor([[0.0, 0.05, 1.6]]))
    noise = 0.3 * torch.rand(zero.flat.shape, generator=torch.manual_seed(0))
    unknowns = replace(zero.of(noise), trans=zero.trans)
    with torch.no_grad():
        points, _ = HeadMarks(body).projected(unknowns, CAMERA)
        identity = body.zero_identity()
        identity = type(identity)(unknowns.betas, identity.face_offset, identity.joint_offset)
        vertices, _ = body(identity, unknowns.poses(body.num_expression)[0])
        expected = CAMERA.project(body.landmarks(vertices))
    torch.testing.assert_close(points[0], expected, atol=2e-2, rtol=0)


@pytest.mark.slow
def test_the_fit_finds_turn_and_mouth():
    """Distance and size are not checked: landmarks cannot distinguish them."""
    body = HeadBody()
    faces, truth = drawn(body)
    fit = fit_head(body, faces, CAMERA)
    assert fit.residual < 0.02
    assert (fit.poses.body[:, 11] - truth.neck).abs().max() < 0.05
    opened = fit.poses.expression[:, body.expression_names.index("jawOpen")]
    assert (0.3 * opened + fit.poses.jaw[:, 0] - 0.15).abs().max() < 0.05
    # A looser bound, as the eyeball's place in the head is fitted too.
    assert (fit.poses.left_eye[:, 1] - 0.2).abs().max() < 0.08
    # The true face is symmetric.
    left, right = (body.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    assert (fit.poses.expression[:, left] - fit.poses.expression[:, right]).abs().max() < 0.05


def test_prior_rows_are_standard_deviations():
    body = HeadBody()
    zero = _Unknowns.zero(body, torch.zeros(2, 3))
    prior, jaw = _prior(body, zero), body.expression_names.index("jawOpen")
    smile = [body.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right")]

    def unlikely(expression: Tensor) -> float:
        return float((prior @ replace(zero, expression=expression).flat).square().sum())

    one, both = zero.expression.clone(), zero.expression.clone()
    one[1, smile[0]] = UNIT
    both[1, smile] = UNIT
    assert unlikely(one) == pytest.approx(1 + (UNIT / UNEVEN) ** 2)
    assert unlikely(both) == pytest.approx(2)
    one.zero_()
    one[0, jaw] = 2 * UNIT
    assert unlikely(one) == pytest.approx(4)
