"""Champ's guidance maps of a body."""

import cv2
import numpy as np

from persona.modules.diffusion.base import KEYPOINTS
from persona.modules.diffusion.controls.body_maps import guidance_maps
from persona.modules.diffusion.controls.skeleton_drawing import draw_skeletons


def maps():
    depth = np.zeros((1, 32, 24), np.float32)
    depth[0, 8:24, 4:20] = np.linspace(2, 3, 16)
    normal = np.zeros((1, 32, 24, 3), np.float32)
    normal[depth > 0] = 0, 0, 1
    normal[0, 8:24, 4:12] = 1, 0, 0
    bones = (depth > 0).astype(np.uint8)
    bones[0, 8:16, 4:20] = 1 + np.arange(16)
    bones[0, 16:24, 4:20] = 1 + np.arange(40, 56).clip(max=54)
    points = np.random.default_rng(2).uniform(2, 22, (1, 133, 3)).astype(np.float32)
    points[..., 2] = np.arange(133) % 2
    return {"depth": depth, "normal": normal, "bones": bones, KEYPOINTS: points}


def test_near_is_bright_and_the_background_black():
    grey = guidance_maps(maps())["depth"][0]
    assert not grey[:8].any() and (grey[..., 0] == grey[..., 2]).all()
    row = grey[10, 4:20, 0].astype(int)
    assert row[0] == 255 and row[-1] == 64 and (np.diff(row) < 0).all()


def test_normals_are_right_up_and_to_the_camera():
    pictures = guidance_maps(maps())["normal"][0]
    assert pictures[10, 14].tolist() == [128, 128, 255]
    assert pictures[10, 6].tolist() == [255, 128, 128] and not pictures[0].any()


def test_limbs_have_the_colours_of_smpls_joints():
    """Fingers count as the hand; colours are OpenCV's scale at steps of ten, as RGB."""
    picture = guidance_maps(maps())["semantic_map"][0]

    def scale(joint):
        return cv2.applyColorMap(np.uint8([[10 * joint]]), cv2.COLORMAP_VIRIDIS)[0, 0, ::-1]

    assert not picture[0].any()
    for joint in range(16):
        assert (picture[10, 4 + joint] == scale(joint)).all()
    assert (picture[20, 4:18] == scale(23)).all()


def test_the_skeleton_is_drawn_where_joints_are_seen():
    given = maps()
    picture = guidance_maps(given)["dwpose"][0]
    points = given[KEYPOINTS].astype(float)
    seen = np.where(points[..., 2:] > 0, points[..., :2], -1)
    ours = draw_skeletons(seen, points[..., 2], (32, 24), drawn_short_side=24)
    assert picture.any() and (picture == ours).all()
