import json
from collections import Counter
from itertools import pairwise

import pytest

from persona.data.sampler import BalancedSampler
from persona.errors import UserError

SMALL, LARGE = (32, 24), (64, 48)


def make(captured=2, generated=9, sizes=None, captured_ratio=0.5, **arguments):
    groups = ["captured"] * captured + ["generated"] * generated
    shares = {"captured": captured_ratio}
    return BalancedSampler(groups, sizes or [SMALL] * len(groups), shares=shares, **arguments)


def epochs(sampler, count=3):
    order = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        order.append(list(sampler))
    return order


def flat(batches):
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("captured", [1, 2])
def test_each_generated_frame_once_and_the_captured_share(ratio, captured):
    sampler = make(captured, 12, captured_ratio=ratio)
    for batches in epochs(sampler):
        counts = Counter(flat(batches))
        assert all(counts[row] == 1 for row in range(captured, captured + 12))
        photographs = [counts[row] for row in range(captured)]
        assert max(photographs) - min(photographs) <= 1
        assert sum(photographs) == round(12 * ratio / (1 - ratio))
        assert len(batches) == len(sampler) == 12 + sum(photographs)


def test_personas_epoch_is_half_photograph():
    sampler = make(1, 907)
    assert len(sampler) == 1814
    assert Counter(flat(sampler))[0] == 907


def test_natural_frequencies():
    assert sorted(flat(make(2, 9, captured_ratio=None))) == list(range(11))


@pytest.mark.parametrize(("captured", "generated"), [(3, 0), (0, 4)])
def test_one_kind_of_frame_alone(captured, generated):
    assert sorted(flat(make(captured, generated))) == list(range(captured + generated))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_order_depends_on_seed_and_epoch_alone(batch_size):
    def order(seed):
        """All batches of each epoch, and the order of the generated frames alone."""
        steps = epochs(make(seed=seed, batch_size=batch_size))
        return steps, [[row for row in flat(epoch) if row >= 2] for epoch in steps]

    (first, rows), (again, _), (other, other_rows) = order(1), order(1), order(2)
    assert first == again
    assert first != other and first[0] != first[1]
    assert rows != other_rows and rows[0] != rows[1]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_the_photograph_is_spread_over_the_epoch(ratio):
    """Cut into as many equal parts as the photograph has places, each part has it once."""
    for steps in epochs(make(1, 200, captured_ratio=ratio, batch_size=4)):
        seen = [0 in step for step in steps]
        assert sum(seen) == round(ratio * len(steps))
        parts = [i * len(steps) // sum(seen) for i in range(sum(seen) + 1)]
        assert all(sum(seen[a:b]) == 1 for a, b in pairwise(parts))


def test_the_photograph_is_spread_over_an_epoch_of_single_frames():
    rows = flat(make(1, 200))
    assert 70 <= rows[:200].count(0) <= 130


def test_the_photograph_comes_at_other_places_each_time():
    first, second = epochs(make(1, 400, batch_size=4), 2)
    assert 50 < sum((0 in a) != (0 in b) for a, b in zip(first, second, strict=True)) < 150


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("generated", [1, 2, 5, 12, 360])
@pytest.mark.parametrize(("captured", "batch_size"), [(1, 2), (1, 4), (1, 8), (2, 4), (6, 4)])
def test_weights_make_up_for_what_a_step_shows_once(captured, batch_size, generated, ratio):
    sampler = make(captured, generated, captured_ratio=ratio, batch_size=batch_size)
    weights, count = sampler.weights, captured + generated
    for steps in epochs(sampler):
        rows = Counter(flat(steps))
        others = [rows[row] for row in range(captured, count)]
        assert min(others) >= 1 and max(others) - min(others) <= 1
        photographs = [rows[row] for row in range(captured)]
        assert sum(photographs) >= 1 and max(photographs) - min(photographs) <= 1
        total = sum(weights[row] for row in flat(steps))
        share = sum(weights[row] for row in flat(steps) if row < captured)
        assert total == pytest.approx(len(flat(steps))) and share == pytest.approx(ratio * total)
        together = {sum(row < captured for row in step) for step in steps}
        assert together <= {0, min(captured, batch_size)}
        if generated >= batch_size:
            assert all(len(set(step)) == batch_size for step in steps)
        if generated == 360:  # As many frames as with a batch size of 1; short epochs may add some.
            frames = generated + round(generated * ratio / (1 - ratio))
            assert len(steps) == -(-frames // batch_size)


@pytest.mark.parametrize(
    ("captured", "arguments"),
    [(1, {}), (2, {"captured_ratio": None, "batch_size": 2}), (0, {"batch_size": 3}),
     (2, {"captured_ratio": 0.0, "batch_size": 2})],
)  # fmt: skip
def test_elsewhere_all_frames_weigh_the_same(captured, arguments):
    assert set(make(captured, 9, **arguments).weights) == {1.0}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_ranks_together_see_what_one_process_sees(world_size, batch_size):
    sizes = [LARGE] * 2 + [SMALL] * 9 if batch_size > 1 else None
    ranks = [
        epochs(make(sizes=sizes, batch_size=batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    alone = epochs(make(sizes=sizes, batch_size=batch_size * world_size))
    for epoch, batches in enumerate(alone):
        assert all(len(rank[epoch]) == len(batches) for rank in ranks)
        for step, batch in enumerate(batches):
            parts = [rank[epoch][step] for rank in ranks]
            assert all(len(part) == batch_size for part in parts)
            assert Counter(flat(parts)) == Counter(batch)


def test_the_photograph_is_shown_by_one_process_which_takes_turns():
    ranks = [epochs(make(1, 60, rank=rank, world_size=3))[0] for rank in range(3)]
    steps = list(zip(*ranks, strict=True))
    shown = [[0 in batch for batch in step] for step in steps]
    assert {sum(step) for step in shown} == {0, 1}
    assert {step.index(True) for step in shown if True in step} == {0, 1, 2}


def test_a_photograph_of_another_size_has_steps_to_itself():
    sampler = make(2, 9, sizes=[LARGE] * 2 + [SMALL] * 9, batch_size=4)
    for steps in epochs(sampler):
        kinds = [{row < 2 for row in step} for step in steps]
        assert all(len(kind) == 1 for kind in kinds)
        assert kinds.count({True}) == 2 and kinds.count({False}) == 3
    assert sampler.weights == pytest.approx([0.5 / 0.4] * 2 + [0.5 / 0.6] * 9)


def test_processes_with_a_frame_each_have_any_sizes():
    steps = list(make(1, 9, sizes=[LARGE] + [SMALL] * 9, world_size=4))
    plain = list(make(1, 9, world_size=4))
    assert steps == plain


def test_sizes_take_turns():
    sizes = [SMALL] + [SMALL] * 40 + [LARGE] * 40
    steps = list(make(1, 80, sizes=sizes, batch_size=2))
    changes = sum(sizes[a[0]] != sizes[b[0]] for a, b in pairwise(steps))
    assert len(steps) / 4 < changes < len(steps) * 3 / 4


def test_a_batch_holds_one_size_and_misses_no_frame():
    sizes = [LARGE] * 2 + [SMALL] * 4 + [LARGE] * 5
    batches = list(make(2, 9, sizes=sizes, batch_size=4))
    assert all(len(batch) == 4 and len({sizes[row] for row in batch}) == 1 for batch in batches)
    assert set(flat(batches)) == set(range(11))


@pytest.mark.parametrize("done", [0, 1, 7, 17])
def test_resume_goes_on_where_it_stopped(done):
    whole = epochs(make(seed=3))
    stopped = make(seed=3)
    stopped.set_epoch(1)
    iterator = iter(stopped)
    for _ in range(done):
        next(iterator)
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = make(seed=3)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert list(resumed) == whole[1][done:]
    resumed.set_epoch(2)
    assert list(resumed) == whole[2]


def test_a_state_from_the_end_of_an_epoch_starts_the_next_whole():
    whole, stopped = epochs(make()), make()
    list(stopped)
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(1)
    assert list(resumed) == whole[1]


def test_a_state_of_other_batches_is_refused():
    state = make(batch_size=2).state_dict()
    other = {"batch_size": 1, "rank": 1, "world_size": 2}
    make(**other).load_state_dict(state)  # Both have two frames a step.
    with pytest.raises(UserError, match="another version of persona"):
        make(**other).load_state_dict({k: v for k, v in state.items() if k != "order"})
    unbalanced = {**other, "captured_ratio": None}
    state = make(**unbalanced).state_dict()
    make(**unbalanced).load_state_dict(state)
    with pytest.raises(UserError, match="another version of persona"):
        make(**unbalanced).load_state_dict({k: v for k, v in state.items() if k != "order"})
    sizes = [SMALL] * 2 + [LARGE] * 9
    with pytest.raises(UserError, match="another number of processes"):
        make(**other, sizes=sizes).load_state_dict(make(batch_size=2, sizes=sizes).state_dict())
    earlier = make().state_dict()
    del earlier["order"], earlier["sizes"]  # The order of one-frame steps never changed.
    make().load_state_dict(earlier)
    with pytest.raises(UserError, match=r"made with 2 frames a step .* this run has 4"):
        make(batch_size=2, world_size=2).load_state_dict(state)


def test_an_abandoned_epoch_is_not_resumed_by_itself():
    sampler = make()
    next(iter(sampler))
    assert len(list(sampler)) == len(sampler)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"captured_ratio": 1.0}, r"captured=1.0"), ({"captured_ratio": -0.1}, r"captured=-0.1"),
        ({"batch_size": 0}, "batch_size=0"), ({"repeats": 0}, "repeats=0: must be 1 or more"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(UserError, match=said):
        make(**arguments)
    with pytest.raises(ValueError, match="rank"):
        make(rank=2, world_size=2)


def test_without_generated_frames_an_epoch_repeats_the_captured():
    """At any ratio, as there are no other frames to balance against."""
    for ratio in (0.5, 0.0, None):
        sampler = make(2, 0, captured_ratio=ratio, repeats=3)
        assert len(sampler) == 6
        assert sorted(rows[0] for rows in sampler) == [0, 0, 0, 1, 1, 1]
    assert len(make(1, 0)) == 1 and len(make(0, 2, repeats=3)) == 2


def test_repeats_do_nothing_beside_generated_frames():
    plain, repeated = (make(1, 3, repeats=count) for count in (1, 50))
    assert list(plain) == list(repeated)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_several_groups_have_their_shares(batch_size):
    """Few photographs, few real frames and many generated frames."""
    groups = ["captured"] * 2 + ["real"] * 3 + ["generated"] * 40
    shares = {"captured": 0.25, "real": 0.25}
    sampler = BalancedSampler(groups, [SMALL] * 45, shares=shares, batch_size=batch_size)
    weights = sampler.weights
    for batches in epochs(sampler):
        counts, total = Counter(flat(batches)), Counter()
        assert set(counts) == set(range(45))
        for row in flat(batches):
            total[groups[row]] += weights[row]
        rows = sum(counts.values())
        for name, share in (shares | {"generated": 0.5}).items():
            assert total[name] / rows == pytest.approx(share, abs=0.01), name
        for batch in batches:
            assert len({groups[row] for row in batch} - {"generated"}) <= 1


def test_a_group_without_frames_and_shares_that_leave_nothing():
    shares = {"captured": 0.5, "real": 0.25}
    with_absent = BalancedSampler(["generated"] * 3, [SMALL] * 3, shares=shares)
    assert sorted(flat(with_absent)) == [0, 1, 2]
    with pytest.raises(UserError, match=r"captured=0.5, real=0.5"):
        BalancedSampler(["generated"], [SMALL], shares={"captured": 0.5, "real": 0.5})
