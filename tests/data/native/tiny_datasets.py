"""Tiny subjects in the native formats of NeuMan, X-Humans and ExAvatar, of a painted body.

Independent of the readers: quaternions by SciPy, TIFF by Pillow, Python 2's pickle by opcodes.
"""

import json
import struct

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyIdentity, BodyPose, Camera

HEIGHT, WIDTH = 120, 100
FOCAL, CENTRE = (230.0, 228.0), (51.5, 59.0)
NEUMAN_FRAMES = 10
FITTED = "smplx_optimized/smplx_params"
GREY = 120


def person(body, seed=0):
    """A random shape."""
    betas = torch.zeros(body.num_betas)
    betas[:10] = torch.randn(10, generator=torch.Generator().manual_seed(seed)) * 0.3
    zero = body.zero_identity()
    return BodyIdentity(betas, zero.face_offset, zero.joint_offset)


def pose_in_world(body, number):
    """Arms lowered, turned a little in every frame; the world has y up, the person is aside."""
    pose = BodyPose.zero(body.num_expression)
    pose.root[1] = 0.15 * (number - 6)  # Frame 4 faces its camera best.
    pose.body[15, 2], pose.body[16, 2] = -1.1 + 0.03 * number, 1.1 - 0.02 * number
    pose.left_hand[:, 2] = 0.2
    pose.jaw[0] = 0.05
    pose.trans[:] = torch.tensor([0.4, 1.1, -0.3])
    return pose


def camera_of(number):
    """A camera 4 m in front of the person, which moves sideways."""
    rotation = Rotation.from_euler("yx", [4.0 * number, 3.0], degrees=True).as_matrix()
    rotation = np.diag([1.0, -1.0, -1.0]) @ rotation
    target = np.array([0.4, 0.78, -0.3])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, np.array([0, 0, 4.0]) - rotation @ target
    return Camera(
        torch.from_numpy(matrix).float(), torch.tensor(FOCAL), torch.tensor(CENTRE), HEIGHT, WIDTH
    )


def photograph(body, identity, pose, camera):
    """Image, mask and depth (0 outside) of the body, painted by rest position."""
    vertices, _ = body(identity, pose)
    render = rasterize(vertices, body.faces, camera)
    paint = 0.5 + 0.4 * torch.sin(body.template * torch.tensor([9.0, 14.0, 11.0]))
    image = (interpolate(render, body.faces, paint) * 255).round().byte().numpy()
    mask = render.mask.numpy()
    return np.where(mask[..., None], image, np.uint8(GREY)), mask, render.depth.numpy()


def camera_pose(body, identity, pose, camera):
    """Root rotation and translation of a world pose in a camera's frame, by NumPy and SciPy."""
    matrix = camera.cam_from_world.double().numpy()
    rest_root = body.shape(identity)[1][0].double().numpy()
    turn = Rotation.from_matrix(matrix[:3, :3]) * Rotation.from_rotvec(pose.root.double().numpy())
    place = matrix[:3, :3] @ (pose.trans.double().numpy() + rest_root) + matrix[:3, 3]
    return turn.as_rotvec(), place - rest_root


def write_neuman(root, body, sequence="bike", count=NEUMAN_FRAMES, smplx=True):
    """Writes a sequence of NeuMan with ExAvatar's parameters."""
    folder = root / sequence
    for name in ("images", "segmentations", "sparse", "smplx_optimized/smplx_params"):
        (folder / name).mkdir(parents=True)
    identity = person(body)
    lines = ["# Image list with two lines of data per image:", ""]
    for number in reversed(range(count)):  # As COLMAP does not sort.
        camera = camera_of(number)
        pose = pose_in_world(body, number)
        image, mask, _ = photograph(body, identity, pose, camera)
        Image.fromarray(image).save(folder / f"images/{number:05d}.png")
        soft = np.where(mask, 0, 255).astype(np.uint8)
        Image.fromarray(soft).save(folder / f"segmentations/{number:05d}.png")
        quaternion = Rotation.from_matrix(camera.cam_from_world[:3, :3].numpy()).as_quat()
        x, y, z, w = quaternion
        shift = " ".join(map(str, camera.cam_from_world[:3, 3].tolist()))
        lines += [f"{count - number} {w} {x} {y} {z} {shift} 1 {number:05d}.png", "1.5 2.5 -1"]
        if smplx:
            write_smplx(folder, number, body, identity, pose, camera)
    (folder / "sparse/images.txt").write_text("\n".join(lines) + "\n")
    lens = f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL[0]} {FOCAL[1]} {CENTRE[0]} {CENTRE[1]}"
    (folder / "sparse/cameras.txt").write_text(f"# Camera list\n{lens}\n")
    if smplx:
        write_identity(folder, identity)
    return folder


def write_identity(folder, identity):
    """Writes ExAvatar's files of a person's shape."""
    for file, value in (
        ("shape_param", identity.betas),
        ("face_offset", identity.face_offset),
        ("joint_offset", identity.joint_offset),
    ):
        (folder / f"smplx_optimized/{file}.json").write_text(json.dumps(value.tolist()))


def write_exavatar(root, body, subject="me", count=6):
    """Writes a video in ExAvatar's Custom layout; unsmoothed fits are shifted by 10 cm."""
    folder, identity = root / subject, person(body)
    for name in ("frames", "masks", "cam_params", f"{FITTED}_smoothed", FITTED):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        camera, pose = camera_of(number), pose_in_world(body, number)
        image, mask, _ = photograph(body, identity, pose, camera)
        Image.fromarray(image).save(folder / f"frames/{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks/{number}.png")
        matrix = camera.cam_from_world
        values = {"R": matrix[:3, :3].tolist(), "t": matrix[:3, 3].tolist()}
        values |= {"focal": list(FOCAL), "princpt": list(CENTRE)}
        (folder / f"cam_params/{number}.json").write_text(json.dumps(values))
        write_smplx(folder, number, body, identity, pose, camera, f"{FITTED}_smoothed")
        pose.trans[0] += 0.1
        write_smplx(folder, number, body, identity, pose, camera)
    write_identity(folder, identity)
    for split, numbers in (("train", range(0, count, 2)), ("test", range(1, count, 2))):
        (folder / f"frame_list_{split}.txt").write_text("\n".join(map(str, numbers)) + "\n")
    return folder


def write_smplx(folder, number, body, identity, pose, camera, place=FITTED):
    """Writes ExAvatar's parameters of one frame, in camera coordinates."""
    root, trans = camera_pose(body, identity, pose, camera)
    values = {
        "root_pose": root.tolist(), "body_pose": pose.body.tolist(), "jaw_pose": pose.jaw.tolist(),
        "leye_pose": [0.0] * 3, "reye_pose": [0.0] * 3, "lhand_pose": pose.left_hand.tolist(),
        "rhand_pose": pose.right_hand.tolist(), "expr": [0.0] * 50, "trans": trans.tolist(),
    }  # fmt: skip
    (folder / place / f"{number}.json").write_text(json.dumps(values))


def write_xhumans(root, body, subject="00028", counts=None):
    """Writes an X-Humans subject; ``counts`` are numbers of frames by (split, take)."""
    counts = counts or {("train", 2): 3, ("train", 10): 2, ("test", 1): 2}
    folder, identity = root / subject, person(body)
    for (split, take), count in counts.items():
        place = folder / split / f"Take{take}"
        for name in ("render/image", "render/depth", "SMPLX"):
            (place / name).mkdir(parents=True)
        extrinsics = []
        for number in range(1, count + 1):
            pose, camera = pose_in_world(body, number + 2 * take), camera_of(number)
            image, mask, depth = photograph(body, identity, pose, camera)
            Image.fromarray(image).save(place / f"render/image/color_{number:06d}.png")
            far = np.where(mask, depth, 100.0).astype(np.float32)
            Image.fromarray(far).save(place / f"render/depth/depth_{number:06d}.tiff")
            extrinsics.append(camera.cam_from_world.double().numpy())
            content = xhumans_parameters(pose, identity)
            (place / f"SMPLX/mesh-f{number:05d}_smplx.pkl").write_bytes(python2_pickle(content))
        intrinsic = np.array([[FOCAL[0], 0, CENTRE[0]], [0, FOCAL[1], CENTRE[1]], [0, 0, 1]])
        np.savez(place / "render/cameras.npz", intrinsic=intrinsic, extrinsic=np.array(extrinsics))
    np.save(folder / "mean_shape_smplx.npy", identity.betas[:10].double().numpy())
    (folder / "gender.txt").write_text("male\n")
    return folder


def xhumans_parameters(pose, identity):
    """Parameters of one frame as flat vectors, as the dataset stores them."""
    arrays = {
        "global_orient": pose.root, "transl": pose.trans, "body_pose": pose.body.flatten(),
        "left_hand_pose": pose.left_hand.flatten(), "right_hand_pose": pose.right_hand.flatten(),
        "jaw_pose": pose.jaw, "leye_pose": pose.left_eye, "reye_pose": pose.right_eye,
        "expression": torch.zeros(10), "betas": identity.betas[:10],
    }  # fmt: skip
    return {key: value.numpy().astype(np.float32) for key, value in arrays.items()}


def python2_pickle(arrays):
    """A dictionary of float32 arrays as Python 2's cPickle (protocol 2) writes it."""

    def text(value):
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING, Python 2's str.

    def integer(value):
        return b"J" + struct.pack("<i", value)

    out = b"\x80\x02}("
    for key, array in arrays.items():
        shape = b"(" + b"".join(integer(n) for n in array.shape) + b"t"
        data = array.astype("<f4").tobytes()
        dtype = (
            b"cnumpy\ndtype\n(" + text(b"f4") + integer(0) + integer(1) + b"tR("
            + integer(3) + text(b"<") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
        )  # fmt: skip
        out += text(key.encode())
        out += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"t"
        out += text(b"b") + b"tR(" + integer(1) + shape + dtype + b"\x89"
        out += b"T" + struct.pack("<i", len(data)) + data + b"tb"
    return out + b"u."
