"""Tiles and windows equal the public code's, and cover clips of any length."""

import json

import pytest
import torch
from conftest import assert_agree

from persona.errors import UserError
from persona.modules.diffusion.tiles import (
    Blend,
    anchored_tiles,
    looped_windows,
    repeat_noise,
    triangle_weights,
)


def test_tiles_parity(parity):
    case = parity("mimicmotion/tiles")
    for number, clip in enumerate(case.about["cases"]):
        frames, size = clip["num_frames"], clip["tile_size"]
        tiles = anchored_tiles(frames, size, clip["tile_overlap"])
        assert tiles == clip["indices"]
        assert_agree(triangle_weights(size), case.wanted[f"weight_{number}"])
        predictions = case.given[f"tile_predictions_{number}"]
        blend = Blend(torch.zeros(1, frames, *predictions.shape[2:]))
        for prediction, tile in zip(predictions, tiles, strict=True):
            blend.add(prediction[None], torch.tensor(tile), triangle_weights(size))
        assert_agree(blend.weight, case.wanted[f"count_{number}"])
        assert_agree(blend.mean(), case.wanted[f"blended_{number}"])
        noise = repeat_noise(case.given[f"noise_{number}"], frames)
        assert_agree(noise, case.wanted[f"repeated_noise_{number}"])


def test_windows_parity(shared_data):
    path = shared_data / "parity/champ/windows.json"
    if not path.is_file():
        pytest.skip(f"needs the reference data at {path}")
    for clip in json.loads(path.read_text())["cases"]:
        arguments = clip["num_frames"], clip["context_size"], clip["context_overlap"]
        windows = looped_windows(*arguments, strides=clip["context_stride"])
        assert windows == clip["windows"]


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7, 23])
def test_every_frame_has_a_tile(frames):
    for tiles in (anchored_tiles(frames, 6, 2), looped_windows(frames, 6, 2)):
        assert {frame for tile in tiles for frame in tile} == set(range(frames))
        assert all(len(set(tile)) == len(tile) == min(6, frames) for tile in tiles)
    assert all(tile[0] == 0 for tile in anchored_tiles(frames, 6, 2))


def test_overlaps_that_leave_frames_out_are_refused():
    for overlap in (0, 6):
        with pytest.raises(UserError, match="tile_overlap"):
            anchored_tiles(10, 6, overlap)
