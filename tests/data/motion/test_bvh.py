import itertools

import pytest
import torch
from scipy.spatial.transform import Rotation

from persona.data.motion.bvh import read_bvh
from persona.errors import UserError

ARM = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Left Arm
  {
    OFFSET 0 2 0
    CHANNELS 3 Xrotation Yrotation Zrotation
    End Site
    {
      OFFSET 1 0 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.04
1 2 3 90 0 0 0 0 0
0 0 0 0 0 0 0 90 90
"""


def write(tmp_path, text):
    path = tmp_path / "clip.bvh"
    path.write_text(text)
    return path


def test_hand_made_file_has_exact_answers(tmp_path):
    clip = read_bvh(write(tmp_path, ARM))
    assert clip.names == ("Hips", "Left Arm", "Left Arm_end")
    assert clip.fps == pytest.approx(25)
    # Frame 0: the root turns 90 degrees about z, so +y offsets point to -x, and +x to +y.
    expected = torch.tensor([[1.0, 2, 3], [-1, 2, 3], [-1, 3, 3]], dtype=torch.float64)
    torch.testing.assert_close(clip.positions[0], expected)
    # Frame 1: y(90) @ z(90) takes x to y.
    expected = torch.tensor([[0.0, 0, 0], [0, 2, 0], [0, 3, 0]], dtype=torch.float64)
    torch.testing.assert_close(clip.positions[1], expected)


@pytest.mark.parametrize("order", ["".join(o) for o in itertools.permutations("XYZ")])
def test_any_channel_order_round_trips(tmp_path, order):
    wanted = Rotation.random(5, random_state=7)
    rows = wanted.as_euler(order, degrees=True)
    channels = " ".join(f"{axis}rotation" for axis in order)
    lines = "\n".join(" ".join(map(repr, map(float, row))) for row in rows)
    text = (
        f"HIERARCHY\nROOT a {{ OFFSET 1 2 3 CHANNELS 3 {channels}\nEnd Site {{ OFFSET 0 1 0 }} }}\n"
        f"MOTION\nFrames:\t5\nFrame Time:\t.01\n{lines}\n"
    )
    clip = read_bvh(write(tmp_path, text))
    torch.testing.assert_close(clip.rotations[:, 0], torch.from_numpy(wanted.as_matrix()))
    torch.testing.assert_close(clip.positions[0, 0], torch.tensor([1.0, 2, 3]).double())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t[: t.rindex("90 90")], "ends in frame 2"),
        (lambda t: t + "1 2 3\n", "more numbers"),
        (lambda t: t.replace("1 2 3 90", "1 nan 3 90"), "frame 1 holds NaN"),
        (lambda t: t.replace("1 2 3 90", "1 2 x 90"), "MOTION section cannot be read"),
        (lambda t: t[: t.index("1 2 3")].replace("Frames: 2", "Frames: 0"), "no frames"),
        (lambda t: t.replace("HIERARCHY", "solid cube"), "not a BVH file"),
        (lambda t: t[: t.index("MOTION")], "not a BVH file"),
        (lambda t: t.replace("Xrotation Yrotation Z", "Wrotation Yrotation Z"), "hierarchy"),
        (lambda t: t.replace("}\nMOTION", "\nMOTION"), "cut short"),
        (lambda t: t.replace("0.04", "0"), "Frame Time=0: give a number above 0"),
        (lambda t: t.replace("0.04", "nan"), "Frame Time=nan"),
        (lambda t: t.replace("0.04", "fast"), "Frame Time=fast"),
        (lambda t: t.replace("0.04", "2"), "Frame Time=2: a frame takes between"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    path = write(tmp_path, damage(ARM))
    with pytest.raises(UserError, match=message) as caught:
        read_bvh(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        lambda t: t.replace("End Site", "EndSite"),
        lambda t: t.replace("Left Arm", "Left MOTION").replace("Hips", "HipsMOTION"),
        lambda t: t.replace("0.04", "0,04").replace("1 2 3 90", "1,0 2,0 3,00 90,0"),
        lambda t: t.replace("OFFSET 0 2 0", "OFFSET 0,0 2,0 0,0"),
        lambda t: "\ufeff" + t,
        lambda t: t.replace("\n", "\r\n"),
    ],
)
def test_other_spellings_say_the_same(tmp_path, other):
    plain, found = read_bvh(write(tmp_path, ARM)), read_bvh(write(tmp_path, other(ARM)))
    torch.testing.assert_close(found.positions, plain.positions, atol=0, rtol=0)
    assert found.fps == plain.fps


def test_a_frame_time_in_milliseconds_is_said(tmp_path, caplog):
    assert read_bvh(write(tmp_path, ARM.replace("0.04", "40"))).fps == pytest.approx(25)
    assert "clip.bvh: Frame Time=40: taken as milliseconds, 25 frames per second" in caplog.text
