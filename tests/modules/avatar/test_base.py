"""The base class of avatars: defaults, learning rates, and changes of the number of Gaussians."""

import importlib
import inspect

import pytest
import torch
from torch import nn

from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.types import PLAIN_VIEW


class Cloud(Avatar):
    """Points with colours, a buffer per point, and a network that all points share."""

    per_gaussian = ("points", "look.rgb", "age")

    def __init__(self, count: int = 4):
        super().__init__()
        self.points = nn.Parameter(torch.arange(3.0 * count).view(count, 3))
        self.look = nn.Module()
        self.look.rgb = nn.Parameter(torch.arange(float(count))[:, None])
        self.register_buffer("age", torch.arange(count))
        self.network = nn.Linear(3, 2)


def test_an_avatar_of_fixed_size_needs_nothing():
    avatar = Avatar()
    avatar.begin_step()
    assert not avatar.capturable and avatar.size() == {}
    avatar.set_size({})
    with pytest.raises(UserError, match="cannot have the size"):
        avatar.set_size({"gaussians": 3})


def test_each_parameter_follows_the_rate_of_the_longest_name():
    avatar = Cloud()
    groups = avatar.parameter_groups({"avatar": 1.0, "look": 2.0, "network.bias": 3.0})
    found = {g["name"]: (g["lr"], [id(p) for p in g["params"]]) for g in groups}
    assert found == {
        "avatar": (1.0, [id(avatar.points), id(avatar.network.weight)]),
        "look": (2.0, [id(avatar.look.rgb)]),
        "network.bias": (3.0, [id(avatar.network.bias)]),
    }


def test_rates_must_fit_the_parameters():
    with pytest.raises(UserError, match=r"none moves look\.rgb; add it, or avatar"):
        Cloud().parameter_groups({"points": 1.0, "network": 1.0})
    with pytest.raises(UserError, match="point moves no parameter"):
        Cloud().parameter_groups({"avatar": 1.0, "point": 1.0})


def test_resize_keeps_rows_in_order_and_appends():
    avatar = Cloud()
    before = dict(avatar.named_parameters())
    fresh = {
        "points": torch.full((1, 3), 9.0), "look.rgb": torch.full((1, 1), 9.0),
        "age": torch.tensor([7]),
    }  # fmt: skip
    replaced = avatar.resize(torch.tensor([3, 1]), fresh)
    assert avatar.points.tolist() == [[9, 10, 11], [3, 4, 5], [9, 9, 9]]
    assert avatar.look.rgb.flatten().tolist() == [3, 1, 9]
    assert avatar.age.tolist() == [3, 1, 7] and avatar.size() == {"gaussians": 3}
    after = dict(avatar.named_parameters())
    assert after.keys() == before.keys()
    assert {id(k): id(v) for k, v in replaced.items()} == {
        id(before[n]): id(after[n]) for n in ("points", "look.rgb")
    }
    assert after["network.weight"] is before["network.weight"]
    assert len(avatar.resize(torch.tensor([0]), {})) == 2 and avatar.size() == {"gaussians": 1}


def test_a_part_of_the_new_rows_is_refused():
    with pytest.raises(ValueError, match=r"new rows of each: points, look\.rgb, age"):
        Cloud().resize(torch.tensor([0]), {"points": torch.zeros(1, 3)})


def test_a_checkpoint_of_another_size_loads():
    trained, empty = Cloud(7), Cloud(2)
    empty.set_size(trained.size())
    empty.load_state_dict(trained.state_dict())
    assert torch.equal(empty.points, trained.points) and torch.equal(empty.age, trained.age)


def test_every_avatar_is_posed_alike():
    """All avatars have the same signature, so methods can pose any of them."""
    for module in ("avatar.exavatar", "avatar.splatting_avatar", "head.avatar", "lhm.avatar"):
        importlib.import_module(f"persona.modules.{module}")
    importlib.import_module("persona.systems.textured_mesh")
    found = [kind for kind in Avatar.__subclasses__() if kind.__module__.startswith("persona.")]
    assert len(found) >= 5
    for kind in found:
        taken = inspect.signature(kind.forward).parameters
        assert [*taken] == ["self", "pose", "view"] and taken["view"].default is PLAIN_VIEW, kind
