"""LHM can learn the sides that the photograph does not show: it overfits two people."""

import itertools
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.systems.lhm_check import score

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS, RATE = 250, 1e-3


def halved(people):
    """The same people with views of half the size, for speed."""
    count = people.colour.shape[:2]
    colour = F.avg_pool2d(people.colour.flatten(0, 1).float(), 2).round().byte()
    mask = F.avg_pool2d(people.mask.flatten(0, 1)[:, None].float(), 2)[:, 0].round().byte()
    return replace(
        people, colour=colour.unflatten(0, count), mask=mask.unflatten(0, count),
        focal_px=people.focal_px / 2, center_px=people.center_px / 2,
    )  # fmt: skip


def test_two_people_are_learnt_by_heart_from_all_sides(shared_data, tmp_path):
    assets = shared_data / "makehuman_cc0"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [
            "+exp=lhm_small", f"data.source.casting.assets={assets}", "renderer=cpu",
            "data.source.casting.num_prints=4", "model.num_points=4000", "model.dim=96",
            "model.heads=2", "model.layers=2", "model.hidden=96", "model.body_depth=4",
            "model.head_depth=2",
        ])  # fmt: skip
    torch.manual_seed(0)
    system, stream = instantiate(config.system), instantiate(config.data)
    stream.aim(system.size, torch.device("cpu"))
    people = [halved(one) for one in itertools.islice(stream.people(0), 2)]
    both = type(people[0])(**{
        f.name: torch.cat([getattr(one, f.name) for one in people]) for f in fields(people[0])
    })  # fmt: skip
    optimizer = torch.optim.AdamW(system.net.parameters(), RATE, betas=(0.9, 0.95))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 20) * (1 if step < 0.7 * STEPS else 0.25)
        terms = system.terms(system.net, both, 1000)
        optimizer.zero_grad()
        sum(system.weights[name][0] * value for name, value in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(system.net.parameters(), 1.0)
        optimizer.step()
    system.average.load_state_dict(system.net.state_dict())
    made = score(system, torch.device("cpu"), people, tmp_path / "people.png", "two")
    assert made["two/fg_psnr_photo"] > 22 and made["two/fg_psnr_other"] > 22
    assert made["two/mask_iou_photo"] > 0.95 and made["two/mask_iou_other"] > 0.95
