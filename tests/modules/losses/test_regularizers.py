"""The regularisers on a strip of six vertices equal formulas with plain matrices."""

import pytest
import torch
from bare_module import bare

from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.topology import neighbours
from persona.modules.losses.persona_step import PersonaStep
from persona.modules.losses.regularizers import (
    ColorLaplacian,
    HandColor,
    HandVariation,
    MeanLaplacian,
    MouthColor,
    OffsetLaplacian,
    RefinedLaplacian,
    ScaleLaplacian,
)
from persona.types import Render

FACES = torch.tensor([[0, 1, 2], [2, 1, 3], [2, 3, 4], [4, 3, 5]])
EDGES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
REGIONS = {
    "face_expr": [0, 3], "eye": [1], "hand": [2], "expr_boundary": [3], "fixed": [0, 1, 2, 3],
    "mouth_out": [3, 4], "mouth_in": [0, 5], "garment": [5],
}  # fmt: skip


def laplacian(edges: list[tuple[int, int]], count: int) -> torch.Tensor:
    """The matrix that maps values to value minus mean of neighbours."""
    adjacent = torch.zeros(count, count)
    for a, b in edges:
        adjacent[a, b] = adjacent[b, a] = 1
    return torch.eye(count) - adjacent / adjacent.sum(1, keepdim=True)


FINE, COARSE = laplacian(EDGES, 6), laplacian([(0, 1), (0, 2), (1, 2)], 3)


def inside(name: str) -> torch.Tensor:
    return torch.isin(torch.arange(6), torch.tensor(REGIONS[name]))


@pytest.fixture
def step() -> PersonaStep:
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    fine, coarse = neighbours(FACES, 6), neighbours(FACES[:1], 3)
    vertices = random(6, 3)
    template = bare(
        AvatarTemplate, _made={}, vertices=vertices, coarse_vertices=vertices[:3],
        fine_index=fine.index, fine_valid=fine.valid, coarse_index=coarse.index,
        coarse_valid=coarse.valid, **{name: inside(name) for name in REGIONS},
    )  # fmt: skip
    posed = PosedAvatar(
        base_canonical=random(6, 3), refined_canonical=random(6, 3), base=random(6, 3),
        refined=random(6, 3), scales=random(6, 1), rgb=random(6, 3), rgb_aux=random(6, 3),
        albedo=random(6, 3), seg=random(6, 3), bones=torch.eye(4)[None],
        expression=torch.zeros(1), trans=torch.zeros(3),
    )  # fmt: skip
    made = PersonaStep.__new__(PersonaStep)
    made.avatar, made.posed = bare(GaussianAvatar, template=template), posed
    return made


def mean_of_squares(values: torch.Tensor, weights: list[float]) -> torch.Tensor:
    return (values**2 * torch.tensor(weights)[:, None]).sum() / values.numel()


def test_means_keep_the_templates_shape_where_it_is_fixed(step):
    """Weight 7 (fine) on face_expr and eyes; 3 (hands) on hands and on the boundary."""
    change = FINE @ step.posed.base_canonical
    rest = FINE @ step.avatar.template.vertices
    own = REGIONS["fixed"] + REGIONS["garment"]
    change[own] -= rest[own]
    expected = mean_of_squares(change, [7.0, 7, 3, 3, 1, 1])
    torch.testing.assert_close(MeanLaplacian(weight=1.0, fine=7.0, hands=3.0)(step), expected)


def test_refined_means_are_smooth_off_what_is_fixed(step):
    expected = mean_of_squares(FINE @ step.posed.refined, [0.0, 0, 0, 0, 1, 1])
    torch.testing.assert_close(RefinedLaplacian(weight=1.0)(step), expected)


def test_what_training_adds_is_smooth_off_what_is_fixed(step):
    added = step.posed.refined_canonical - step.avatar.template.vertices
    expected = mean_of_squares(FINE @ added, [0.0, 0, 0, 0, 1, 1])
    torch.testing.assert_close(OffsetLaplacian(weight=1.0)(step), expected)


def test_scales_are_smooth_on_both_meshes(step):
    scales = step.posed.scales
    expected = ((FINE @ scales) ** 2).mean() + ((COARSE @ scales[:3]) ** 2).mean()
    torch.testing.assert_close(ScaleLaplacian(weight=1.0)(step), expected)


def test_colours_are_smooth(step):
    torch.testing.assert_close(
        ColorLaplacian(weight=1.0)(step), ((FINE @ step.posed.albedo) ** 2).mean()
    )


def test_hands_take_the_auxiliary_colours(step):
    difference = step.posed.rgb[2] - step.posed.rgb_aux[2]
    torch.testing.assert_close(HandColor(weight=1.0)(step), (difference**2).mean())


def test_the_mouth_takes_the_mean_colour_of_the_lips(step):
    rgb = step.posed.rgb
    lips = (rgb[3] + rgb[4]) / 2
    expected = (((rgb[0] - lips) ** 2).sum() + ((rgb[5] - lips) ** 2).sum()) / 6
    torch.testing.assert_close(MouthColor(weight=1.0)(step), expected)


def test_what_colours_are_pulled_to_is_not_pulled(step):
    """The mouth's inside does not change the lips, nor hands the auxiliary colours."""
    rgb, aux = (getattr(step.posed, name).requires_grad_() for name in ("rgb", "rgb_aux"))
    (MouthColor(weight=1.0)(step) + HandColor(weight=1.0)(step)).backward()
    assert rgb.grad[[0, 2, 5]].abs().amin() > 0, "mouth's inside and hand must get gradients"
    assert not rgb.grad[[3, 4]].any() and aux.grad is None


def test_hands_vary_little_where_they_are_opaque():
    """A pair counts if both pixels are opaque: in the left hand, one of rows and one of columns.

    Means are over all 3 pairs of rows and 4 of columns; all channels are equal.
    """
    left = torch.tensor([[0.1, 0.3, 0.9], [0.6, 0.8, 0.0]])
    left_alpha = torch.tensor([[0.95, 0.95, 0.5], [0.95, 0.89, 0.95]])
    right = torch.tensor([[0.1, 0.4, 0.0], [0.0, 0.0, 0.0]])
    right_alpha = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    renders = {
        name: Render({"rgb_fixed": rgb.expand(3, 2, 3)}, alpha[None])
        for name, rgb, alpha in (
            ("left_hand", left, left_alpha), ("right_hand", right, right_alpha)
        )
    }  # fmt: skip
    # Left: |0.6 - 0.1| and |0.3 - 0.1|; right: |0.4 - 0.1|.
    expected = 0.5 / 3 + 0.2 / 4 + 0.3 / 4
    step = PersonaStep.__new__(PersonaStep)
    step.renders = renders
    assert float(HandVariation(weight=1.0)(step)) == pytest.approx(expected)
