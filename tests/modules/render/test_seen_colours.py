"""Colours that are solved for, against the dense solution; what views show."""

import torch

from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.seen_colours import Shot, best_views, seen_colours, shown_px
from persona.types import Camera, Channel, Gaussians

COUNT, SIDE = 4, 12


class NothingPassesNoGradients(CpuRenderer):
    """Without Gaussians its pictures are constants, as those of the renderers on a GPU."""

    def _rasterize(self, gaussians, *rest):
        alpha, images = super()._rasterize(gaussians, *rest)
        if len(gaussians.means):
            return alpha, images
        return alpha.detach(), [image.detach() for image in images]


def draw_shot(rng):
    """Four faint balls before noise, some of which is masked, under light that differs."""
    means = torch.rand(COUNT, 3, generator=rng) * 0.6 - 0.3 + torch.tensor([0, 0, 2.0])
    turns = torch.eye(1, 4).repeat(COUNT, 1)
    size = torch.full((2,), float(SIDE))
    return Shot(
        Gaussians(means, torch.full((COUNT, 3), 0.15), turns, torch.full((COUNT,), 0.8)),
        Camera.identity(1.5 * size, size / 2, SIDE, SIDE),
        torch.rand(3, SIDE, SIDE, generator=rng),
        (torch.rand(1, SIDE, SIDE, generator=rng) > 0.3).float(),
        0.5 + torch.rand(COUNT, 1, generator=rng),
    )


def test_colours_solve_the_least_squares_problem_of_all_photographs():
    """Compared with the dense solution, by a render of each Gaussian's own share of pixels.

    One photograph does not show the first Gaussian, and one has no pixels that count.
    """
    rng = torch.Generator().manual_seed(1)
    renderer, shots = NothingPassesNoGradients(), [draw_shot(rng) for _ in range(3)]
    shots[1].gaussians.means[0, 0] = 9.0
    shots[2].mask.zero_()
    first, hold = torch.rand(COUNT, 3, generator=rng), 5.0
    normal, right = hold * torch.eye(COUNT).double(), torch.zeros(COUNT, 3).double()
    for shot in shots:
        columns = []
        for one in torch.eye(COUNT):
            lit = Channel((one[:, None] * shot.shade).repeat(1, 3))
            image = renderer(shot.gaussians, shot.camera, {"c": lit}).images["c"]
            columns.append(image[0].flatten())
        shares = torch.stack(columns, 1).double()
        alpha = renderer(shot.gaussians, shot.camera, {}).alpha
        missing = (shot.image * alpha).flatten(1).T.double() - shares @ first.double()
        weighed = shot.mask.flatten().double()[:, None] * shares
        normal, right = normal + shares.T @ weighed, right + weighed.T @ missing
    wanted = first + torch.linalg.solve(normal, right)
    # Near enough to the first colours that none is clamped.
    assert wanted.min() > 0 and wanted.max() < 1
    found = seen_colours(renderer, shots, first, hold=hold)
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    assert not torch.allclose(found, first, atol=0.02)


def test_photographs_without_pixels_that_count_change_nothing():
    shot = draw_shot(torch.Generator().manual_seed(3))
    shot.mask.zero_()
    first = torch.rand(COUNT, 3)
    assert torch.equal(seen_colours(NothingPassesNoGradients(), [shot], first), first)


def test_shown_pixels_add_up_to_what_counts():
    shot = draw_shot(torch.Generator().manual_seed(2))
    found = shown_px(CpuRenderer(), shot)
    alpha = CpuRenderer()(shot.gaussians, shot.camera, {}).alpha
    assert torch.allclose(found.sum(), (alpha * shot.mask).sum(), rtol=1e-4)
    assert (found > 0).all()


def test_views_are_chosen_by_what_they_add():
    views = [[3.0, 0, 0, 0], [0, 2, 2, 0], [0, 2, 2.5, 0], [3, 0, 0, 0.5], [0, 0, 0, 0]]
    shown = [torch.tensor(view, dtype=torch.float) for view in views]
    assert best_views(shown, 1) == [2]
    assert best_views(shown, 9) == [2, 3]
    assert best_views(shown[-1:], 2) == []
