"""Places the 133 COCO-WholeBody keypoints and the SMPL-X face landmarks on the baked body.

Body and hands are joints, extremities come from the geometry, and the 68 face points are what
MediaPipe's face mesh finds on shaded renderings of the face, cast back onto the surface.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from persona.modules.body.keypoints import keypoint_joints
from persona.modules.body.topology import vertex_normals
from persona.modules.detect.runtime import load_solutions
from persona.modules.detect.wholebody import MESH478_TO_FACE68, flip_order
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import Camera

VIEWS_DEG = (-30, -15, 0, 15, 30)
SIZE_PX, FOCAL_PX, DISTANCE = 768, 2400.0, 1.1
"""The face fills about two thirds of a view from a portrait's distance (metres)."""
JAW_OPEN = 0.15
"""Radians of jaw while the lips are looked for, so that upper and lower lip are apart."""
LIPS = range(48, 68)
EYES = {"left": range(65, 71), "right": range(59, 65)}
"""Keypoints around each eye."""


@dataclass
class Surface:
    """The template's triangles, with joints and dominant bones of the vertices."""

    vertices: np.ndarray  # (V, 3) metres
    faces: np.ndarray  # (F, 3)
    joints: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]  # joint -> (V,)
    bone: np.ndarray  # (V,) name of the heaviest Anny bone
    skin: np.ndarray  # (F,) outer skin of the head, without the cavities of mouth and eyes

    def at_vertex(self, vertex: int) -> tuple[int, np.ndarray]:
        """(face, barycentric) of a vertex."""
        face, corner = np.argwhere(self.faces == vertex)[0]
        return int(face), np.eye(3)[corner]

    def at(self, face: int, barycentric: np.ndarray) -> np.ndarray:
        """Position (3,) of a point of a face."""
        return barycentric @ self.vertices[self.faces[face]]

    def closest(self, point: np.ndarray, allowed: np.ndarray) -> tuple[int, np.ndarray]:
        """(face, barycentric) of the surface point nearest to a point, on allowed faces."""
        middle = self.vertices[self.faces].mean(1)
        distance = np.where(allowed, np.linalg.norm(middle - point, axis=1), np.inf)
        candidates = np.argsort(distance, kind="stable")[:100]
        bary = np.stack(
            [closest_barycentric(point, *self.vertices[self.faces[f]]) for f in candidates]
        )
        found = (self.vertices[self.faces[candidates]] * bary[..., None]).sum(1)
        best = np.linalg.norm(found - point, axis=1).argmin()
        return int(candidates[best]), bary[best]

    def with_jaw(self, angle: float) -> "Surface":
        """The same surface with the jaw turned (radians, positive opens)."""
        pivot, turn = self.joints["jaw"], Rotation.from_euler("x", angle).as_matrix()
        moved = (self.vertices - pivot) @ turn.T + pivot
        share = self.weights["jaw"][:, None]
        return replace(self, vertices=share * moved + (1 - share) * self.vertices)


def closest_barycentric(p: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Barycentrics of the point of triangle abc nearest to p."""
    edges = np.stack([b - a, c - a], 1)
    u, v = np.linalg.lstsq(edges, p - a)[0]
    if u >= 0 and v >= 0 and u + v <= 1:
        return np.array([1 - u - v, u, v])
    best, least = None, np.inf
    corners, eye = (a, b, c), np.eye(3)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = corners[j] - corners[i]
        t = np.clip((p - corners[i]) @ edge / (edge @ edge), 0, 1)
        distance = np.linalg.norm(corners[i] + t * edge - p)
        if distance < least:
            best, least = (1 - t) * eye[i] + t * eye[j], distance
    return best


def face_camera(center: np.ndarray, yaw_deg: float) -> Camera:
    """Camera in front of the face, turned by a yaw about the vertical."""
    yaw = np.deg2rad(yaw_deg)
    forward = -np.array([np.sin(yaw), 0, np.cos(yaw)])
    down = np.array([0, -1.0, 0])
    rotation = np.stack([np.cross(down, forward), down, forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ (center - DISTANCE * forward)
    tensor = torch.tensor
    return Camera(
        tensor(pose, dtype=torch.float32), tensor([FOCAL_PX, FOCAL_PX]),
        tensor([SIZE_PX / 2, SIZE_PX / 2]), SIZE_PX, SIZE_PX,
    )  # fmt: skip


def vertex_colors(surface: Surface) -> np.ndarray:
    """Skin, and eyes with an iris, so that a face detector finds its way."""
    colors = np.tile([0.82, 0.62, 0.53], (len(surface.vertices), 1))
    for side in ("left", "right"):
        eye = surface.weights[f"{side}_eye"] > 0.5
        out = surface.vertices - surface.joints[f"{side}_eye"]
        front = out[:, 2] / np.linalg.norm(out, axis=1)
        colors[eye] = [0.95, 0.95, 0.93]
        colors[eye & (front > 0.9)] = [0.25, 0.16, 0.1]
    return colors


def detect_face(surface: Surface, yaw_deg: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface points (68, 3) under the landmarks of one view, their certainty, the picture.

    The certainty is the cosine between surface normal and viewing direction.
    """
    vertices = torch.tensor(surface.vertices, dtype=torch.float32)
    faces = torch.tensor(surface.faces, dtype=torch.int64)
    eyes = (surface.joints["left_eye"] + surface.joints["right_eye"]) / 2
    camera = face_camera(eyes - [0, 0.03, 0], yaw_deg)
    hit = rasterize(vertices, faces, camera)
    normals = interpolate(hit, faces, vertex_normals(vertices, faces))
    facing = -(normals @ camera.cam_from_world[:3, :3].T)[..., 2]
    albedo = interpolate(hit, faces, torch.tensor(vertex_colors(surface), dtype=torch.float32))
    light = 0.25 + 0.75 * (normals @ torch.tensor([0.2, 0.45, 0.87])).clamp(min=0)
    image = torch.where(hit.mask[..., None], albedo * light[..., None], torch.ones(3)).clamp(0, 1)
    pixels = (image.numpy() * 255).astype(np.uint8)
    with load_solutions().face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, min_detection_confidence=0.3
    ) as mesh:
        found = mesh.process(pixels).multi_face_landmarks
    if not found:
        raise RuntimeError(f"no face found in the rendering at yaw {yaw_deg} degrees")
    marks = np.array([[m.x, m.y] for m in found[0].landmark])[list(MESH478_TO_FACE68)] * SIZE_PX
    # A landmark beside the face or in an opening belongs to the nearest skin in the picture.
    on_skin = np.append(surface.skin, False)[hit.face.numpy()]
    _, (rows, columns) = distance_transform_edt(~on_skin, return_indices=True)
    column, row = np.clip(marks.astype(int), 0, SIZE_PX - 1).T
    row, column = rows[row, column], columns[row, column]
    return (
        interpolate(hit, faces, vertices).numpy()[row, column],
        facing.numpy()[row, column],
        pixels,
    )


def face_points(surface: Surface) -> np.ndarray:
    """The 68 points (68, 3): certainty-weighted over the views, then made symmetric."""
    views = [detect_face(surface, yaw) for yaw in VIEWS_DEG]
    points, certainty = np.stack([v[0] for v in views]), np.stack([v[1] for v in views])
    weight = np.clip(certainty - 0.2, 1e-3, None)[..., None]
    mean = (points * weight).sum(0) / weight.sum(0)
    mirror = np.array(flip_order())[23:91] - 23
    return (mean + mean[mirror] * [-1, 1, 1]) / 2


def extremities(surface: Surface) -> dict[int, int]:
    """Vertex of each keypoint that lies at an end of the body: ears, toes, heels, finger tips."""
    at, tips = surface.vertices, {}
    head = surface.weights["head"] > 0.5
    for i, side in enumerate(("left", "right")):
        sign, letter = (1, "L") if side == "left" else (-1, "R")
        out = np.where(head, at[:, 0] * sign, -np.inf)
        ear = at[out > out.max() - 0.012].mean(0)
        tips[3 + i] = int(np.where(head, np.linalg.norm(at - ear, axis=1), np.inf).argmin())
        for keypoint, bone, way in (
            (17, "toe1-2", [0, 0, 1]), (18, "toe5-3", [0, 0, 1]), (19, "foot", [0, -1, -1]),
        ):  # fmt: skip
            own = surface.bone == f"{bone}.{letter}"
            tips[keypoint + 3 * i] = int(np.where(own, at @ way, -np.inf).argmax())
        for k, finger in enumerate(("thumb", "index", "middle", "ring", "pinky")):
            a, b = (surface.joints[f"{side}_{finger}{n}"] for n in (2, 3))
            own = surface.bone == f"finger{k + 1}-3.{letter}"
            tips[91 + 21 * i + 4 * (k + 1)] = int(np.where(own, at @ (b - a), -np.inf).argmax())
    return tips


def dynamic_contour(
    surface: Surface, contour: list[tuple[int, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """SMPL-X's contour per head yaw, faces (79, 17) and barycentrics (79, 17, 3).

    Rows 0 to 39 turn the head by 0 to -39 degrees, rows 40 to 78 by 1 to 39. A point slides
    forward on its own height of the face to wherever the silhouette is, never behind its place
    in the front view.
    """
    face_skin = (surface.weights["head"] + surface.weights["jaw"]) > 0.8
    faces, bary = np.zeros((79, 17), np.int32), np.zeros((79, 17, 3), np.float32)
    for row in range(79):
        yaw = np.deg2rad(-row if row < 40 else row - 39)
        sideways = surface.vertices @ [np.cos(yaw), 0, np.sin(yaw)]
        for k, (face, weights) in enumerate(contour):
            place = surface.at(face, weights)
            sign = np.sign(k - 8)  # the subject's right side first
            level = face_skin & (np.abs(surface.vertices[:, 1] - place[1]) < 0.005)
            ahead = (
                level & (surface.vertices[:, 2] > place[2]) & (surface.vertices[:, 0] * sign > 0)
            )
            reach = np.where(ahead, sideways * sign, -np.inf)
            outer = place @ [np.cos(yaw), 0, np.sin(yaw)] * sign
            if k != 8 and reach.max() > outer:
                face, weights = surface.at_vertex(int(reach.argmax()))
            faces[row, k], bary[row, k] = face, weights
    return faces, bary


def bake_keypoints(surface: Surface) -> dict[str, np.ndarray]:
    """The file's keypoint and landmark arrays."""
    place: dict[int, tuple[int, np.ndarray]] = {}
    relaxed, opened = surface, surface.with_jaw(JAW_OPEN)
    for posed in (relaxed, opened):
        points = face_points(posed)
        for i in LIPS if posed is opened else range(LIPS.start):
            place[23 + i] = posed.closest(points[i], surface.skin)
    place[0] = place[23 + 30]  # the tip of the nose
    for keypoint, vertex in extremities(surface).items():
        place[keypoint] = surface.at_vertex(vertex)
    for keypoint, side in ((1, "left"), (2, "right")):
        ball = (surface.weights[f"{side}_eye"] > 0.5)[surface.faces].all(1)
        lids = [surface.at(*place[k]) for k in EYES[side]]
        place[keypoint] = surface.closest(np.mean(lids, 0), ball)
    joint = keypoint_joints()
    faces, bary = np.zeros(133, np.int32), np.tile(np.float32([1, 0, 0]), (133, 1))
    for keypoint, (face, weights) in place.items():
        faces[keypoint], bary[keypoint] = face, weights
    contour_faces, contour_bary = dynamic_contour(surface, [place[23 + k] for k in range(17)])
    return {
        "keypoint_joint": joint,
        "keypoint_faces": faces,
        "keypoint_bary": bary,
        "lmk_faces_idx": faces[40:91],
        "lmk_bary_coords": bary[40:91],
        "dynamic_lmk_faces_idx": contour_faces,
        "dynamic_lmk_bary_coords": contour_bary,
    }
