"""A training that is limited by time; the test sets the clock."""

from types import SimpleNamespace

import lightning
import pytest

from persona.errors import UserError
from persona.systems import clock
from persona.systems.clock import TrainingClock


@pytest.fixture
def at(monkeypatch):
    """Function that sets the time that the clock reads."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(clock.time, "monotonic", lambda: now.s)

    def to(seconds):
        now.s = 1000.0 + seconds

    return to


class Trainer(lightning.Trainer):
    """A trainer of one of several processes; ``others``: whether another process's time is over."""

    should_stop, asked = False, 0
    world_size, global_step, log_every_n_steps = 1, 7, 50
    strategy = property(lambda self: self)

    def __init__(self, others=False):
        self.others = others

    def reduce_boolean_decision(self, decision, all):
        self.asked += 1
        return decision or (self.others and not all)


def test_the_share_is_the_steps_or_the_times_whichever_is_ahead(at):
    training = TrainingClock(steps=100, minutes=1.0)
    at(30)
    assert training.trained_s == 0 and training.done(10) == 0.1, "it has not started"
    training.start()
    at(75)
    training.start()  # Starting again changes nothing.
    assert training.trained_s == 45 and training.done(10) == 0.75 and training.done(90) == 0.9
    at(3000)
    assert training.done(10) == 1.0
    assert TrainingClock(steps=100).done(250) == 1.0


def test_the_time_of_calls_adds_up(at):
    first = TrainingClock(steps=100, minutes=2.0, call_minutes=0.5)
    first.start()
    at(40)
    first.stop()
    at(500)
    assert first.trained_s == 40, "the clock has been stopped"
    second = TrainingClock(steps=100, minutes=2.0, call_minutes=0.5)
    second.earlier_s = first.trained_s
    second.start()
    at(520)
    assert second.trained_s == 60 and second.call_s == 20 and second.done(0) == 0.5


@pytest.mark.parametrize(
    ("limits", "last", "over"),
    [({"minutes": 1.0}, 59, 60), ({"call_minutes": 0.5}, 29, 30),
     ({"minutes": 9.0, "call_minutes": 0.5}, 29, 30),
     ({"minutes": 0.5, "call_minutes": 9.0}, 29, 30)],
)  # fmt: skip
def test_ends_when_its_time_or_its_calls_is_over(at, limits, last, over):
    training, trainer = TrainingClock(steps=100, **limits), Trainer()
    training.start()
    at(last)
    training.end(trainer)
    assert not trainer.should_stop
    at(over)
    training.end(trainer)
    assert trainer.should_stop
    at(0)
    training.end(trainer)
    assert trainer.should_stop, "a trainer that is to stop is not started again"


def test_all_processes_end_with_the_first_and_none_waits_without_a_limit(at):
    training, trainer = TrainingClock(steps=100, minutes=1.0), Trainer(others=True)
    trainer.world_size = 2
    training.start()
    training.end(trainer)
    assert not trainer.should_stop and not trainer.asked, "processes agree only every 50 steps"
    trainer.global_step = 100
    training.end(trainer)
    assert trainer.should_stop
    trainer = Trainer(others=True)
    TrainingClock(steps=100).end(trainer)
    assert not trainer.should_stop and not trainer.asked


@pytest.mark.parametrize("name", ["minutes", "call_minutes"])
def test_no_time_is_refused(name):
    for none in (0.0, -1.5):
        with pytest.raises(UserError, match=rf"system\.{name}={none}: give more than none"):
            TrainingClock(steps=1, **{name: none})
