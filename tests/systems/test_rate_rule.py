"""How learning rates grow with the frames of a step."""

import pytest
from hydra.utils import instantiate

from persona.commands.experiment import train
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
            raise error.__cause__ from None


@pytest.mark.parametrize(
    ("rule", "factor"),
    [pytest.param("none", 1, marks=pytest.mark.slow),
     pytest.param("sqrt", 2, marks=pytest.mark.slow), ("linear", 4)],
)  # fmt: skip
def test_shared_rates_follow_the_rule_and_rows_do_not(tiny, tmp_path, monkeypatch, rule, factor):
    seen = []

    def step(self, closure):
        closure()
        seen.append({group["name"]: group["lr"] for group in self.param_groups})

    monkeypatch.setattr("persona.modules.optim.RowAdam.step", step)
    config = tiny("data.batch_size=4", f"system.schedule.rate_rule={rule}", "trainer.max_steps=1")
    train(config, tmp_path / "run")
    rates, poses = config.avatar.rates, config.system.schedule
    assert seen[0] == pytest.approx({
        "means": factor * rates.means, "appearance": factor * rates.appearance,
        "offsets": factor * rates.network, "poses": poses.poses, "hand_poses": poses.hand_poses,
    })  # fmt: skip
