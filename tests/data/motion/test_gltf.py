"""glTF animations: a file that pygltflib makes from a clip is read as the same clip."""

import json
import struct

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_retarget import angles_deg, natural_rotations

from persona.data.motion.gltf import read_gltf
from persona.data.motion.load import load_motion
from persona.data.motion.names import JOINTS, RIGS
from persona.data.motion.retarget import retarget
from persona.errors import UserError

pygltflib = pytest.importorskip("pygltflib", reason="needs persona[dev]")
MIXAMO = next(rig for rig in RIGS if rig.name == "mixamo")
FPS = 24.0


def mixamo_name(joint):
    side, _, part = joint.partition("_")
    pattern = MIXAMO.joints.get(f"left_{part}" if part else joint)
    return f"mixamorig:{pattern.format(s=side.title())}" if pattern else joint


class Written:
    """Makes a file whose joints have random axes, under a rotated and scaled armature."""

    def __init__(self, target, local, *, skinned, seed=3):
        random = np.random.default_rng(seed)
        self.file, self.data = pygltflib.GLTF2(), b""
        self.own = Rotation.random(55, random).as_matrix()  # World from joint at rest.
        parents, places = target.parents, 100 * target.rest_joints.numpy()
        armature = Rotation.from_euler("x", -90, degrees=True)
        self.file.nodes.append(
            pygltflib.Node(name="Armature", rotation=armature.as_quat().tolist(), scale=[0.01] * 3)
        )
        # In the armature's frame z is up.
        inside = armature.inv().as_matrix()
        places, rest = places @ inside.T, inside @ self.own
        self.turns = []
        for j, name in enumerate(JOINTS):
            p = parents[j]
            above = rest[p] if p >= 0 else np.eye(3)
            away = above.T @ (places[j] - (places[p] if p >= 0 else 0))
            base = above.T @ rest[j]
            self.file.nodes.append(pygltflib.Node(
                name=mixamo_name(name), translation=away.tolist(),
                rotation=Rotation.from_matrix(base).as_quat().tolist(),
            ))  # fmt: skip
            # A rotation L about world axes at rest is own^T L own in the joint's axes.
            turned = base @ self.own[j].T @ local[:, j].numpy() @ self.own[j]
            self.turns.append(Rotation.from_matrix(turned).as_quat())
        for j, p in enumerate(parents):
            self.file.nodes[p + 1].children.append(j + 1)
        if skinned:
            binds = np.tile(np.eye(4), (55, 1, 1))
            binds[:, :3, :3], binds[:, :3, 3] = rest, places
            binds = np.linalg.inv(binds).swapaxes(1, 2).reshape(-1, 16)
            accessor = self.add(binds, "MAT4")
            self.file.skins.append(
                pygltflib.Skin(joints=list(range(1, 56)), inverseBindMatrices=accessor)
            )
        self.animate(len(local))

    def add(self, array, kind):
        values = np.asarray(array, np.float32)
        self.file.bufferViews.append(pygltflib.BufferView(
            buffer=0, byteOffset=len(self.data), byteLength=values.nbytes))  # fmt: skip
        self.data += values.tobytes()
        self.file.accessors.append(pygltflib.Accessor(
            bufferView=len(self.file.bufferViews) - 1, componentType=pygltflib.FLOAT,
            count=len(values), type=kind))  # fmt: skip
        return len(self.file.accessors) - 1

    def animate(self, frames):
        times = self.add(np.arange(frames) / FPS, "SCALAR")
        animation = pygltflib.Animation()
        for j, turns in enumerate(self.turns):
            animation.samplers.append(
                pygltflib.AnimationSampler(input=times, output=self.add(turns, "VEC4"))
            )
            animation.channels.append(pygltflib.AnimationChannel(
                sampler=j, target=pygltflib.AnimationChannelTarget(node=j + 1, path="rotation"),
            ))  # fmt: skip
        self.file.animations.append(animation)

    def save(self, path):
        self.file.buffers.append(pygltflib.Buffer(byteLength=len(self.data)))
        self.file.set_binary_blob(self.data)
        self.file.scenes = [pygltflib.Scene(nodes=[0])]
        path.write_bytes(b"".join(self.file.save_to_bytes()))
        return path


@pytest.mark.parametrize("skinned", [False, True])
def test_the_same_motion_as_the_clip_it_was_made_from(target, tmp_path, skinned):
    """Joints with Mixamo's names and random axes are read to a tenth of a degree."""
    local = natural_rotations(6)
    clip = read_gltf(Written(target, local, skinned=skinned).save(tmp_path / "a.glb"))
    assert clip.fps == pytest.approx(FPS, rel=1e-4) and len(clip.rotations) == 6
    assert "mixamorig:LeftUpLeg" in clip.names
    found = target.local_rotations(retarget(clip, target).pose)
    assert angles_deg(found[:, :22], local[:, :22]).max() < 0.1
    assert angles_deg(found[:, 25:], local[:, 25:]).max() < 0.1


def test_what_is_exported_comes_back(body, tmp_path):
    """An exported .glb, read as a motion, has the exported joint angles to 5 degrees on average."""
    from persona.data.export.gltf import Glb
    from persona.data.export.scene import Clip, RiggedSplats, Skin, Splats
    from persona.modules.avatar.pose_table import full_rotations
    from persona.modules.body.rotation import quaternion_from_matrix

    motion = load_motion("squat", body, fps=10)[:12]
    turns = quaternion_from_matrix(full_rotations(body, motion.pose))
    clip = Clip(turns.numpy(), motion.pose.trans.numpy(), np.zeros((12, 0), np.float32), 10.0, "x")
    identity = body.zero_identity()
    one, three = np.ones(1, np.float32), np.ones((1, 3), np.float32)
    splats = Splats(three, three, np.ones((1, 4), np.float32), one, three)
    skin = Skin(np.zeros((1, 1), int), one[:, None])
    rig = RiggedSplats(
        splats, skin, np.zeros((0, 1, 3), np.float32), (), JOINTS, tuple(body.parents.tolist()),
        body.shape(identity)[1].numpy(), body.canonical(identity)[2].numpy(),
    )  # fmt: skip
    file = Glb()
    file.skeleton(rig, clip, 0)
    file.finish({"name": "none", "primitives": []}, rig, clip, 0)
    (tmp_path / "a.glb").write_bytes(file.content())
    found = load_motion(tmp_path / "a.glb", body, fps=10)
    assert len(found) == 12
    a, b = (full_rotations(body, m.pose)[:, 1:22] for m in (motion, found))
    assert angles_deg(a, b).mean() < 5


def test_a_vrm_says_which_node_is_which_bone(target, tmp_path):
    made = Written(target, natural_rotations(4), skinned=False)
    path = made.save(tmp_path / "a.vrma")
    data = path.read_bytes()
    (size,) = struct.unpack_from("<I", data, 12)
    whole = json.loads(data[20 : 20 + size])
    bones = {"leftUpperLeg": {"node": 1 + JOINTS.index("left_hip")}}
    whole["extensions"] = {"VRMC_vrm_animation": {"humanoid": {"humanBones": bones}}}
    text = json.dumps(whole).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, len(data) - size + len(text), len(text), b"JSON")
    path.write_bytes(head + text + data[20 + size :])
    assert read_gltf(path).names[1 + JOINTS.index("left_hip")] == "leftUpperLeg"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:60], "damaged or not a glTF file"),
        (lambda data: b"not json", "damaged or not a glTF file"),
        (lambda data: b'{"nodes": []}', "holds no animation"),
        (lambda data: data[:-4000], "damaged or not a glTF file"),
    ],
)
def test_damaged_files_are_named(target, tmp_path, damage, told):
    path = Written(target, natural_rotations(3), skinned=False).save(tmp_path / "a.glb")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"a\.glb: .*{told}"):
        read_gltf(path)


def test_steps_are_held_and_rates_are_the_longest_channels(target, tmp_path):
    made = Written(target, natural_rotations(6), skinned=False)
    made.file.animations[0].samplers[3].interpolation = "STEP"
    few = made.add([0.0, 5 / FPS], "SCALAR")
    two = made.add(made.turns[3][[0, 5]], "VEC4")
    made.file.animations[0].samplers[3].input = few
    made.file.animations[0].samplers[3].output = two
    clip = read_gltf(made.save(tmp_path / "a.glb"))
    assert len(clip.rotations) == 6
    assert torch.isfinite(clip.rotations).all()
    parent = clip.parents[4]
    relative = clip.rotations[:, parent].mT @ clip.rotations[:, 4]
    assert angles_deg(relative[0], relative[4]) < 1e-2 < angles_deg(relative[0], relative[5])
