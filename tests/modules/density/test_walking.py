"""When Gaussians walk and get transparent, and what the optimiser then forgets."""

import pytest
import torch
from torch import nn

from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.modules.density.base import Resize
from persona.modules.density.walking import RESET_OPACITY, WalkingGradient
from persona.modules.optim import RowAdam, forget, replace_rows


class Walker(Avatar):
    """An avatar of four Gaussians, whose walks end on face 9."""

    per_gaussian = ("face", "slide", "opacity_logit")

    def __init__(self):
        super().__init__()
        self.register_buffer("face", torch.arange(4))
        self.slide = nn.Parameter(torch.ones(4, 2))
        self.opacity_logit = nn.Parameter(torch.tensor([-9.0, 0.0, 2.0, 3.0]))

    def walk(self):
        return {"face": torch.full((4,), 9), "slide": torch.zeros(4, 2)}


def test_walks_and_resets_have_their_own_steps():
    density = WalkingGradient(walk_every=10, reset_every=30, first=25, every=5, last=60)
    assert density.decides(10) and not density.grows(10)  # Growing begins at 25.
    assert density(Walker(), 9) is None
    walk, both = density(Walker(), 10), density(Walker(), 30)
    assert set(walk.anew) == {"face", "slide"} and not walk.fresh
    assert set(both.anew) == {"face", "slide", "opacity_logit"}
    most = torch.tensor(RESET_OPACITY).logit()
    torch.testing.assert_close(both.anew["opacity_logit"], Walker().opacity_logit.clamp(max=most))
    assert density.decides(70) and not density.watches(70)  # Walks continue until the end.
    assert set(density(Walker(), 90).anew) == {"face", "slide"}


def test_in_the_last_steps_they_walk_and_nothing_else():
    density = WalkingGradient(walk_every=10, reset_every=30, first=25, every=5, last=60)
    density.rests_after = 44.5
    assert [step for step in range(1, 100) if density.grows(step)] == [25, 30, 35, 40]
    assert density.watches(44) and not density.watches(45)
    assert density.resets(30) and not density.resets(60) and density.walks(60)
    density.rests_after = 90
    assert max(step for step in range(1, 100) if density.grows(step)) == 60


def test_a_walk_takes_the_rows_that_stay(monkeypatch):
    from persona.modules.density.screen_gradient import ScreenGradient

    pruned = Resize(torch.tensor([3, 1]), {})
    monkeypatch.setattr(ScreenGradient, "__call__", lambda *_: pruned)
    change = WalkingGradient(walk_every=10)(Walker(), 10)
    assert change.keep.tolist() == [3, 1] and len(change.anew["face"]) == 2


def test_an_avatar_without_triangles_is_refused():
    class Still(Avatar):
        pass

    with pytest.raises(UserError, match="Still has no triangles"):
        WalkingGradient(walk_every=10)(Still(), 10)


def test_what_is_set_anew_is_forgotten_by_the_optimiser():
    avatar = Walker()
    optimizer = RowAdam([{"params": list(avatar.parameters())}], lr=0.1)
    (avatar.slide.sum() + avatar.opacity_logit.sum()).backward()
    optimizer.step()
    keep = torch.arange(4)
    replace_rows(optimizer, avatar.resize(keep, {}), keep)
    forget(optimizer, avatar.set_rows(avatar.walk()))
    assert not avatar.slide.any() and avatar.face.tolist() == [9] * 4
    assert not optimizer.state[avatar.slide]["exp_avg"].any()
    assert optimizer.state[avatar.opacity_logit]["exp_avg"].all()


def test_a_change_travels_whole():
    change = Resize(torch.arange(2), {"a": torch.ones(1)}, {"b": torch.ones(2)})
    assert torch.equal(change.cpu().anew["b"], change.anew["b"])
