"""Rows and means of test frames, by asset."""

import pytest
import torch

from persona.modules.metrics.protocol import protocol_metrics
from persona.systems import scores as scores_module
from persona.systems.scores import Scores
from persona.types import Camera, Frame

SIDE = 80


def frame(number: int):
    image = torch.full((1, 3, SIDE, SIDE), 0.5)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 8:-8, 16:-16] = 1
    none, one = torch.zeros(1, 2), torch.tensor([number])
    camera = Camera.identity(none, none, SIDE, SIDE)
    return Frame(
        index=one, subject=one, camera=camera, image=image, mask=mask, albedo=image, depth=mask,
        normal=image, seg=image, patch=image, patch_box_px=torch.zeros(1, 4),
        name=(f"test/{number}",),
    )  # fmt: skip


def off_by(truth, error: float):
    return truth.image * truth.mask + 1 - truth.mask + error * truth.mask, truth.mask


def test_the_result_has_no_prefix_and_means_are_over_frames():
    scores = Scores(protocol_metrics(None), ("base", "refined"))
    for number, error in enumerate((0.2, 0.1)):
        truth = frame(number)
        scores.add(truth, {"base": off_by(truth, 0.2), "refined": off_by(truth, error)})
    names = [row.pop("frame") for row in scores.rows]
    assert names == ["test/0", "test/1"]
    first, second = scores.rows
    assert first["fg_psnr"] == pytest.approx(first["base_fg_psnr"])
    assert second["fg_psnr"] > second["base_fg_psnr"] + 5
    means = scores.means()
    assert means.keys() == first.keys()
    for name, mean in means.items():
        assert float(mean) == pytest.approx((first[name] + second[name]) / 2, rel=1e-5), name
    scores.forget()
    truth = frame(2)
    scores.add(truth, {a: off_by(truth, 0.1) for a in ("base", "refined")})
    assert len(scores.rows) == 1
    assert float(scores.means()["fg_psnr"]) == pytest.approx(second["fg_psnr"]), "only frame 2"


def test_rows_of_all_processes_lie_in_the_order_of_the_frames(monkeypatch):
    """Processes take frames in turn; the last may have one fewer."""
    scores = Scores(protocol_metrics(None), ("points",))
    truth = frame(0)
    scores.add(truth, {"points": off_by(truth, 0.1)})
    parts = [[{"frame": "a"}, {"frame": "c"}, {"frame": "e"}], [{"frame": "b"}, {"frame": "d"}]]
    monkeypatch.setattr(scores_module, "of_all_processes", lambda rows: parts)
    scores.means()
    assert [row["frame"] for row in scores.rows] == list("abcde")
