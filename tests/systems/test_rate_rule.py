"""How learning rates grow with the number of frames in a step."""

from dataclasses import replace

import pytest
from hydra.utils import instantiate

from persona.errors import UserError
from persona.systems.schedule import rate_factor


def test_factors():
    assert [rate_factor(rule, 4) for rule in ("none", "sqrt", "linear")] == [1, 2, 4]
    assert all(rate_factor(rule, 1) == 1 for rule in ("none", "sqrt", "linear"))


def test_unknown_rule(tiny):
    with pytest.raises(UserError, match="rate_rule=cubic is unknown: choose none, sqrt, linear"):
        try:
            instantiate(tiny("system.schedule.rate_rule=cubic").system)
        except Exception as error:
            raise (error.__cause__ or error) from None


def test_shared_rates_follow_the_rule_and_rows_do_not(tiny, built):
    config = tiny("data.batch_size=4")
    system, _ = built(config)
    rates, poses = config.avatar.rates, config.system.schedule
    for rule, factor in (("none", 1), ("sqrt", 2), ("linear", 4)):
        system.schedule = replace(system.schedule, rate_rule=rule)
        groups = system.configure_optimizers()["optimizer"].param_groups
        assert {group["name"]: group["lr"] for group in groups} == pytest.approx({
            "means": factor * rates.means, "appearance": factor * rates.appearance,
            "offsets": factor * rates.network, "poses": poses.poses,
            "hand_poses": poses.hand_poses,
        })  # fmt: skip
