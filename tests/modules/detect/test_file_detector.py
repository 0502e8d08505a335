import json

import cv2
import numpy as np
import pytest
import torch

from persona.errors import UserError
from persona.modules.detect import FileDetector
from persona.modules.detect.offsets import OFFSETS


def person(offset=0.0, size=50.0):
    points = torch.rand(133, 3, generator=torch.Generator().manual_seed(0)) * size + offset
    points[:, 2] = 0.9
    return points


@pytest.fixture
def mask(tmp_path):
    path = tmp_path / "mask.png"
    pixels = np.zeros((80, 100), np.uint8)
    pixels[10:70, 20:60] = 255
    cv2.imwrite(str(path), pixels)
    return path


def detect(tmp_path, mask, data):
    path = tmp_path / "keypoints.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return FileDetector(path, mask)(torch.zeros(80, 100, 3), "photo.png")


def coco(points):
    parts = {"keypoints": (0, 17), "foot_kpts": (17, 23), "face_kpts": (23, 91)}
    parts |= {"lefthand_kpts": (91, 112), "righthand_kpts": (112, 133)}
    return {name: points[a:b].flatten().tolist() for name, (a, b) in parts.items()}


def openpose(points):
    body = torch.zeros(25, 3)
    from persona.modules.detect import wholebody

    body[list(wholebody.BODY25_TO_BODY)] = points[:17]
    body[list(wholebody.BODY25_TO_FEET)] = points[17:23]
    face = torch.cat((points[23:91], torch.zeros(2, 3)))
    return {
        "pose_keypoints_2d": body.flatten().tolist(),
        "face_keypoints_2d": face.flatten().tolist(),
        "hand_left_keypoints_2d": points[91:112].flatten().tolist(),
        "hand_right_keypoints_2d": points[112:].flatten().tolist(),
    }


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.tolist(),
        lambda p: {"annotations": [coco(p)]},
        lambda p: coco(p),
        lambda p: {"people": [openpose(p)]},
        lambda p: {
            "instance_info": [{"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist()}]
        },
    ],
    ids=["persona", "coco", "coco-single", "openpose", "mmpose"],
)
def test_each_format_gives_the_same_points(tmp_path, mask, write):
    found = detect(tmp_path, mask, write(person()))
    torch.testing.assert_close(found.keypoints, person())
    assert found.mask[40, 40] == 1 and found.mask[0, 0] == 0
    assert found.warnings == () and not found.points_m.any()


def test_coco_visibility_flags_become_scores(tmp_path, mask):
    points = person()
    points[:17, 2] = torch.tensor([0.0, 1, 2] * 5 + [2, 2])
    found = detect(tmp_path, mask, coco(points))
    assert found.keypoints[:3, 2].tolist() == [0, 0.5, 1]


def test_the_largest_of_several_is_taken_and_said(tmp_path, mask):
    people = [openpose(person(size=20)), openpose(person(offset=5, size=60))]
    found = detect(tmp_path, mask, {"people": people})
    torch.testing.assert_close(found.keypoints, person(offset=5, size=60))
    assert "2 people" in found.warnings[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{", "not a keypoint file"),
        ("[[1, 2, 3]]", "not a keypoint file"),
        ({"people": []}, "holds nobody; give"),
        ({"hello": 1}, "not a keypoint file"),
        (person(offset=500).tolist(), "inside photo.png"),
        ([[float("nan")] * 3] * 133, "not finite; detect"),
    ],
)
def test_bad_keypoints(tmp_path, mask, data, says):
    with pytest.raises(UserError, match=says) as error:
        detect(tmp_path, mask, data)
    assert "keypoints.json" in str(error.value)


def test_missing_files_and_wrong_mask(tmp_path, mask):
    with pytest.raises(UserError, match="no such keypoint file"):
        FileDetector(tmp_path / "no.json", mask)(torch.zeros(80, 100, 3))
    path = tmp_path / "k.json"
    path.write_text(json.dumps(person().tolist()))
    with pytest.raises(UserError, match="no such mask"):
        FileDetector(path, tmp_path / "no.png")(torch.zeros(80, 100, 3))
    with pytest.raises(UserError, match="100 x 80"):
        FileDetector(path, mask)(torch.zeros(90, 100, 3))
    cv2.imwrite(str(mask), np.zeros((80, 100), np.uint8))
    with pytest.raises(UserError, match="empty"):
        FileDetector(path, mask)(torch.zeros(80, 100, 3))


def test_the_file_says_where_its_tool_puts_points(tmp_path, mask):
    path = tmp_path / "keypoints.json"
    path.write_text(json.dumps(person().tolist()))
    for settings, offsets in (((), "body"), (("mediapipe",), "mediapipe")):
        found = FileDetector(path, mask, *settings)(torch.zeros(80, 100, 3))
        assert torch.equal(found.offsets, OFFSETS[offsets])
    with pytest.raises(UserError, match=r"placed_as=openpose is unknown: choose body, mediapipe"):
        FileDetector(path, mask, "openpose")
