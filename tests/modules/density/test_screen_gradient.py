"""Which Gaussians are cloned, split or removed, and the gradient that decides it."""

from types import SimpleNamespace

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from persona.modules.avatar.base import Avatar
from persona.modules.density.base import Density
from persona.modules.density.screen_gradient import SHRINK, ScreenGradient, screen_gradient
from persona.modules.losses.base import Step
from persona.types import Camera, Gaussians

SMALL, LARGE = 0.005, 0.05


def camera() -> Camera:
    return Camera(
        focal_px=torch.tensor([100.0, 80.0]), center_px=torch.tensor([30.0, 20.0]),
        cam_from_world=torch.eye(4), height=40, width=60,
    )  # fmt: skip


class Seen(SimpleNamespace):
    """A stand-in for ``Step`` with the attributes that a density reads."""

    __class__ = Step  # For run-time type checks.


class Recorded(Avatar):
    """Records the arguments of ``split``."""

    def split(self, rows, shift, shrink):
        self.asked = rows, shift, shrink
        return {"rows": rows}


def step_of(means, scales, opacities=None):
    """A step with these Gaussians."""
    opacities = torch.ones(len(means)) if opacities is None else opacities
    turns = torch.eye(1, 4).expand(len(means), 4)
    gaussians = Gaussians(means, scales[:, None].expand(-1, 3), turns, opacities)
    frame = SimpleNamespace(camera=[SimpleNamespace(local=camera)])
    return Seen(
        posed=SimpleNamespace(gaussians=lambda asset: gaussians), frame=frame, renders={"x": None}
    )


def pulled(policy, pulls, scales, opacities=None, step=2):
    """Change and avatar after a step in which each Gaussian has a gradient along image x."""
    leaf = torch.tensor([[0.0, 0, 2.0]]).repeat(len(scales), 1).requires_grad_()
    means = leaf * 1
    policy.watch(step_of(means, scales, opacities))
    pixel = 100.0 * means[:, 0] / 2.0
    (pixel * torch.tensor(pulls) / 30.0).sum().backward()  # Half the width is 30 pixels.
    avatar = Recorded()
    return policy(avatar, step), avatar


def test_the_default_changes_nothing():
    density = Density()
    assert not density.watches(1) and not density.decides(1)
    assert density(Avatar(), 1) is None and density.state_dict() == {}


def test_the_gradient_is_the_projections():
    """It equals autograd through the projection with constant depth."""
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand(5, 3, generator=generator) + torch.tensor([0, 0, 1.0])).requires_grad_()
    pull = torch.randn(5, 2, generator=generator)
    view = camera()
    place = view.focal_px * means[:, :2] / means[:, 2:].detach() + view.center_px
    unit = place / torch.tensor([view.width / 2, view.height / 2])
    (unit * pull).sum().backward()
    torch.testing.assert_close(screen_gradient(means, view), pull.norm(dim=1))


def test_without_a_gradient_it_says_so():
    with pytest.raises(RuntimeError, match="must return the tensor that was rendered"):
        screen_gradient(torch.ones(2, 3), camera())


def test_small_ones_are_cloned_large_ones_split_and_faint_ones_go():
    policy = ScreenGradient(first=2, every=2, last=4, gradient=0.5, small_m=0.01)
    scales = torch.tensor([SMALL, LARGE, SMALL, LARGE, SMALL])
    opacities = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.001])
    change, avatar = pulled(policy, [0.6, 0.7, 0.4, 0.3, 9.0], scales, opacities)
    assert change.keep.tolist() == [0, 2, 3]  # 1 is split; 4 is removed despite its gradient.
    rows, shift, shrink = avatar.asked
    assert rows.tolist() == [0, 1, 1]
    assert (shift[0] == 0).all() and (shift[1:] != 0).all() and not torch.equal(*shift[1:])
    assert shrink.tolist() == pytest.approx([1, SHRINK, SHRINK])
    assert policy.state_dict() == {}, "the counts must be reset"


def test_large_ones_go_where_there_is_a_limit():
    policy = ScreenGradient(first=2, every=2, gradient=0.5, max_scale_m=0.04)
    change, _ = pulled(policy, [0.0, 0.0], torch.tensor([SMALL, LARGE]))
    assert change.keep.tolist() == [0] and change.fresh == {}


def test_the_mean_is_over_frames_that_moved_it():
    policy = ScreenGradient(first=2, every=2, gradient=0.5, small_m=0.01)
    scales = torch.full((2,), SMALL)
    assert pulled(policy, [0.9, 0.0], scales, step=1)[0] is None
    change, avatar = pulled(policy, [0.3, 0.6], scales)
    # (0.9 + 0.3) / 2 and 0.6 / 1.
    assert avatar.asked[0].tolist() == [0, 1] and change.keep.tolist() == [0, 1]
    pulled(policy, [0.8, 0.0], scales, step=3)
    change, _ = pulled(policy, [0.1, 0.0], scales, step=4)
    assert change is None, "0.9 / 2 is too little"


def test_no_more_than_allowed_and_the_strongest_first():
    policy = ScreenGradient(first=2, every=2, gradient=0.5, small_m=0.01, max_gaussians=4)
    _, avatar = pulled(policy, [0.6, 0.9, 0.7], torch.full((3,), SMALL))
    assert avatar.asked[0].tolist() == [1]


def test_what_was_seen_is_saved():
    whole, cut = (ScreenGradient(first=2, every=2, gradient=0.5) for _ in range(2))
    scales = torch.full((2,), SMALL)
    pulled(whole, [0.9, 0.0], scales, step=1)
    cut.load_state_dict(whole.state_dict())
    results = [pulled(policy, [0.3, 0.4], scales) for policy in (whole, cut)]
    assert results[0][1].asked[0].tolist() == results[1][1].asked[0].tolist() == [0]


def test_when():
    policy = ScreenGradient(first=4, every=2, last=8)
    assert [s for s in range(1, 12) if policy.decides(s)] == [4, 6, 8]
    assert [s for s in range(1, 12) if policy.watches(s)] == list(range(1, 9))


def test_grows_and_prunes_as_gsplat_does():
    """gsplat's strategy, with the same gradients in two frames, makes the same changes."""
    count, generator = 200, torch.Generator().manual_seed(5)
    draw = lambda: torch.rand(count, generator=generator)  # noqa: E731
    pulls = [(draw() * (draw() > 0.3)).tolist() for _ in range(2)]
    scales, opacities = 0.02 * draw(), draw().clamp(0.01, 0.99)
    settings = {"gradient": 0.5, "small_m": 0.01, "min_opacity": 0.2}
    ours = ScreenGradient(first=2, every=2, **settings)
    assert pulled(ours, pulls[0], scales, opacities, step=1)[0] is None
    change, avatar = pulled(ours, pulls[1], scales, opacities)
    rows, _, shrink = avatar.asked

    theirs = DefaultStrategy(
        prune_opa=0.2, grow_grad2d=0.5, grow_scale3d=0.01, refine_start_iter=0, refine_every=2
    )
    values = {
        "means": torch.zeros(count, 3), "quats": torch.eye(1, 4).repeat(count, 1),
        "scales": scales[:, None].repeat(1, 3).log(), "opacities": opacities.logit(),
        "row": torch.arange(count).float(),
    }  # fmt: skip
    params = {k: torch.nn.Parameter(v, requires_grad=False) for k, v in values.items()}
    state = theirs.initialize_state()
    for step, pull in enumerate(pulls, 1):
        means = torch.zeros(1, count, 2)
        means.grad = torch.tensor(pull)[None, :, None] * torch.tensor([1 / 30.0, 0])
        radii = (means.grad[..., :1] > 0).float().repeat(1, 1, 2)
        about = {"width": 60, "height": 40, "n_cameras": 1, "gaussian_ids": None}
        theirs.step_post_backward(
            params, {}, state, step, about | {"means2d": means, "radii": radii}
        )
    after = params["scales"][:, 0].exp() / scales[params["row"].long()]
    split = sorted(params["row"][after < 0.99].tolist())
    whole = sorted(params["row"][after > 0.99].tolist())
    assert split == sorted(rows[shrink > 1].tolist()) and len(split) > 20
    assert whole == sorted([*change.keep.tolist(), *rows[shrink == 1].tolist()])
    assert len(whole) > len(set(whole)), "none was cloned"
