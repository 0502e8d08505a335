import torch

from persona.modules.detect import wholebody


def test_lengths_and_slices_tile_the_133_points():
    assert len(wholebody.MESH478_TO_FACE68) == 68
    assert len(wholebody.POSE33_TO_BODY) == len(wholebody.BODY25_TO_BODY) == 17
    parts = (wholebody.BODY, wholebody.FEET, wholebody.FACE)
    parts += (wholebody.LEFT_HAND, wholebody.RIGHT_HAND)
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert covered == list(range(133))


def test_flip_is_an_involution_that_swaps_sides():
    order = torch.tensor(wholebody.flip_order())
    assert torch.equal(order[order], torch.arange(133))
    assert order[wholebody.LEFT_WRIST] == wholebody.RIGHT_WRIST
    assert order[17] == 20 and order[19] == 22
    assert order[23] == 39 and order[31] == 31  # Ends of the jaw; chin.
    assert order[59] == 68 and order[71] == 77  # Outer corners of the eyes; corners of the mouth.
    assert torch.equal(order[wholebody.LEFT_HAND], torch.arange(112, 133))


def test_from_mediapipe_places_each_part():
    pose = torch.stack((torch.arange(33.0), torch.zeros(33), torch.full((33,), 0.7)), -1)
    hand = torch.ones(21, 3) * 5
    out = wholebody.from_mediapipe(pose, None, hand, None)
    assert out[wholebody.LEFT_SHOULDER, 0] == 11 and out[wholebody.RIGHT_ANKLE, 0] == 28
    assert out[17, 0] == 31 and out[22, 0] == 30
    assert out[18, 2] == 0 and out[21, 2] == 0, "MediaPipe has no small toes"
    assert (out[wholebody.LEFT_HAND] == 5).all()
    assert (out[wholebody.RIGHT_HAND, 2] == 0).all() and (out[wholebody.FACE, 2] == 0).all()


def test_from_openpose_skips_neck_and_midhip():
    body = torch.stack((torch.arange(25.0), torch.zeros(25), torch.ones(25)), -1)
    out = wholebody.from_openpose(body, torch.ones(70, 3), None, None)
    names = [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]
    assert out[:17, 0].tolist() == names
    assert out[17:23, 0].tolist() == [19, 20, 21, 22, 23, 24]


def test_points_outside_the_image_score_zero():
    points = torch.zeros(133, 3)
    points[:, 2] = 1
    points[0, 0], points[1, 1] = -1, 80
    out = wholebody.drop_outside(points, width=100, height=80)
    assert out[0, 2] == 0 and out[1, 2] == 0 and (out[2:, 2] == 1).all()
