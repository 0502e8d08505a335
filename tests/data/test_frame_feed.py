"""Frames that stay on the host: values, order, and that no copy overwrites rows in use."""

from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tiny_subject import write_tiny_subject

from persona.data import frames as frames_module
from persona.data.datamodule import BalancedLoader, FrameLoader, SubjectDataModule
from persona.data.frame_feed import FrameFeed, pin_in_place
from persona.data.frames import FrameDataset
from persona.data.packing import ALIGNMENT, PackedLayout
from persona.data.sampler import BalancedSampler
from persona.errors import UserError
from persona.types import Frame

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

HALF = {"captured": 0.5}


class HostFeed(FrameFeed):
    """A feed without a device; it overwrites rows after their use, and records all calls."""

    def __init__(self, device=None):
        self.staged, self.calls, self.device = None, [], device

    def stage(self, key, rows):
        self.calls.append(("stage", tuple(key)))
        self.staged = tuple(key), [row.clone() for row in rows]

    @contextmanager
    def take(self, key, rows):
        self.calls.append(("take", tuple(key)))
        if self.staged is None or self.staged[0] != tuple(key):
            self.calls.append(("late", tuple(key)))
            self.staged = tuple(key), [row.clone() for row in rows]
        data = self.staged[1]
        yield data
        for row in data:
            row.fill_(137)
        self.staged = None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_tiny_subject(
        tmp_path_factory.mktemp("subjects") / "s", {"captured": 1, "generated_0": 7, "test": 2}
    )
    return SubjectDataModule(root=root, batch_size=2, seed=3)


def equal(a: Frame, b: Frame) -> bool:
    """Whether two batches are equal bit for bit."""
    a, b = a.to("cpu"), b.to("cpu")
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Frame) if f.name != "camera"]
    pairs += [(getattr(a.camera, f.name), getattr(b.camera, f.name)) for f in fields(a.camera)]
    return all(
        torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y
        for x, y in pairs
    )


def test_arrays_share_a_row():
    layout = PackedLayout(
        {"a": ((3,), torch.uint8), "b": ((2, 2), torch.float32), "c": ((1,), torch.float16)}
    )
    assert layout.spans == {"a": (0, 3), "b": (16, 32), "c": (32, 34)}
    assert layout.num_bytes == 48 and layout.num_bytes % ALIGNMENT == 0
    rows = torch.zeros(5, layout.num_bytes, dtype=torch.uint8)
    views = layout.views(rows)
    views["b"][3] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rows[3, 16:32].numpy().tobytes() == np.float32([1, 2, 3, 4]).tobytes()
    assert not rows[2].any() and not rows[4].any()
    one = layout.views(rows[3])
    assert one["b"].shape == (2, 2) and one["b"][1, 0] == 3


@pytest.mark.parametrize("rows", [[0], [3], [4, 0, 4], []])
def test_fed_frames_are_the_frames(data, rows):
    plain = data.train_frames
    fed = FrameDataset(plain.stores, HostFeed())
    assert equal(fed[rows], plain[rows])


def test_each_batch_travels_during_the_one_before(data):
    fed = FrameDataset(data.train_frames.stores, HostFeed())
    balanced = BalancedSampler(fed.roles, fed.sizes, shares=HALF, batch_size=2, seed=1)
    for loader in (
        FrameLoader(fed, [[0], [3], [2]]),
        BalancedLoader(fed, balanced),
    ):
        fed.feed.calls.clear()
        taken = []
        for batch in loader:
            taken.append(tuple(batch.index.tolist()))
            # During the step, the copy of the next batch must already have started.
            done = fed.feed.calls[-1]
            assert done[0] == ("stage" if len(taken) < len(loader) else "take")
        late = [key for what, key in fed.feed.calls if what == "late"]
        assert late == taken[:1], "only the first batch may be copied late"
        assert [key for what, key in fed.feed.calls if what == "take"] == taken


@pytest.mark.parametrize("world_size", [1, 2])
def test_order_and_shares_do_not_depend_on_the_feed(data, world_size):
    plain = data.train_frames
    fed = FrameDataset(plain.stores, HostFeed())
    for rank in range(world_size):
        settings = {"batch_size": 2, "seed": 5, "rank": rank, "world_size": world_size}
        loaders = [
            BalancedLoader(d, BalancedSampler(d.roles, d.sizes, shares=HALF, **settings))
            for d in (plain, fed)
        ]
        for epoch in range(2):
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            for a, b in zip(*loaders, strict=True):
                assert equal(a, b)


def test_looking_ahead_does_not_move_the_position(data):
    fed = FrameDataset(data.train_frames.stores, HostFeed())

    def loader():
        return BalancedLoader(fed, BalancedSampler(fed.roles, fed.sizes, shares=HALF, seed=2))

    whole = [batch.name for batch in loader()]
    stopped = loader()
    for count, _ in enumerate(stopped, 1):
        if count == 4:
            break
    assert stopped.state_dict()["position"] == 4
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert [batch.name for batch in resumed] == whole[4:]


def test_places_without_cuda(data):
    frames = data.train_frames
    for on in ("auto", "device", "host"):
        assert frames.place(torch.device("cpu"), on).feed is None
    with pytest.raises(UserError, match="frames_on=disk is unknown: choose auto, device, host"):
        frames.place(torch.device("cpu"), "disk")
    with pytest.raises(UserError, match="frames_on=disk"):
        SubjectDataModule(root=data.root, frames_on="disk")


def test_few_frames_go_to_the_device_and_many_stay(data, monkeypatch):
    frames, device = data.train_frames, torch.device("cuda", 0)
    monkeypatch.setattr(FrameDataset, "to", lambda self, where: where)
    monkeypatch.setattr(frames_module, "pin_in_place", lambda rows: None)
    monkeypatch.setattr(frames_module, "FrameFeed", HostFeed)
    assert frames.place(device) == device
    monkeypatch.setattr(frames_module, "DEVICE_BYTES", frames.num_bytes - 1)
    stay = frames.place(device)
    assert stay.feed.device == device and stay.place(device) is stay
    assert stay.stores[0].packed is frames.stores[0].packed, "no second copy of the frames"
    assert frames.place(device, "device") == device


class TestOnTheDevice:
    pytestmark = gpu

    def test_frames_are_those_of_a_resident_store(self, data):
        device = torch.device("cuda", 0)
        host = data.train_frames
        fed, resident = host.place(device, "host"), host.place(device, "device")
        assert fed.feed is not None and fed.stores[0].packed.is_pinned()
        assert fed[[0]].image.device == device
        for rows in ([0], [5, 0], [1, 2, 3], []):
            assert equal(fed[rows], resident[rows])
            # Not to the bit: the device multiplies by 1 / 255, the host divides.
            torch.testing.assert_close(fed[rows].image.cpu(), host[rows].image)
            assert fed[rows].name == host[rows].name
        sampler = BalancedSampler(host.roles, host.sizes, shares=HALF, batch_size=3, seed=1)
        for batch in BalancedLoader(fed, sampler):
            # Only batches of the sampler have weights.
            assert equal(replace(batch, weight=()), resident[batch.index.tolist()])

    def test_no_copy_overtakes_a_reader(self):
        """With large rows, a device far behind the host, and memory that is reused at once."""
        device, generator = torch.device("cuda", 0), torch.Generator().manual_seed(0)
        rows = torch.randint(0, 256, (8, 10_000_000), dtype=torch.uint8, generator=generator)
        pin_in_place(rows)
        sums = rows.long().sum(1)
        feed, found, order = FrameFeed(device), [], torch.randint(0, 8, (300,)).tolist()
        busy = torch.randn(4096, 4096, device=device)
        for i, row in enumerate(order):
            busy = (busy @ busy).clamp(-1, 1)
            with feed.take([row], [rows[row]]) as (data,):
                found.append(data.long().sum())
                data.fill_(255)  # A read that comes too late gets 255.
            poison = torch.full((10_000_000,), 7, dtype=torch.uint8, device=device)
            del poison
            if i + 1 < len(order) and i % 7:
                feed.stage([order[i + 1]], [rows[order[i + 1]]])
            elif i % 7 == 0:
                feed.stage([-1], [rows[0]])  # A batch that is never taken.
        torch.testing.assert_close(torch.stack(found).cpu(), sums[order])

    def test_a_dropped_feed_leaves_its_memory_alone(self):
        """A copy that is running when the feed is deleted must not write into new tensors."""
        device = torch.device("cuda", 0)
        rows = torch.full((1, 200_000_000), 9, dtype=torch.uint8)
        pin_in_place(rows)
        for _ in range(10):
            feed = FrameFeed(device)
            feed.stage([0], [rows[0]])
            del feed
            mine = torch.zeros(200_000_000, dtype=torch.uint8, device=device)
            torch.cuda.synchronize()
            assert not mine.any()
            del mine

    def test_handing_out_does_not_wait(self, data):
        """The host hands batches out while the device is still busy with earlier work."""
        device = torch.device("cuda", 0)
        fed = data.train_frames.place(device, "host")
        fed[[0]], fed.stage([1]), fed[[1]]
        torch.cuda.synchronize()
        torch.cuda._sleep(int(2e8))  # About 0.1 s.
        end = torch.cuda.Event()
        with _sync_is_an_error():
            for row in (0, 1, 2, 0):
                fed[[row]]
                fed.stage([row + 1])
        end.record()
        assert not end.query()


@contextmanager
def _sync_is_an_error():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
