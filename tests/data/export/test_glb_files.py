"""Both kinds of .glb, read by pygltflib and animated by the tests' own skinning."""

import io
import json
import shutil
import subprocess

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation
from splat_scene import FRAMES, random_scene, skinned

from persona.data.export.formats import FORMATS
from persona.data.export.glb_splats import srgb_to_linear

pygltflib = pytest.importorskip("pygltflib", reason="needs persona[export]")
KINDS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Reader:
    """Reads arrays of a .glb file."""

    def __init__(self, path):
        self.file = pygltflib.GLTF2().load(str(path))
        self.blob = self.file.binary_blob()
        (self.mesh,) = self.file.meshes
        (self.primitive,) = self.mesh.primitives

    def view(self, index, kind, count):
        start = self.file.bufferViews[index].byteOffset
        return np.frombuffer(self.blob, kind, count, start)

    def array(self, index):
        accessor = self.file.accessors[index]
        kind, width = KINDS[accessor.componentType], SIZES[accessor.type]
        if accessor.sparse is None:
            flat = self.view(accessor.bufferView, kind, accessor.count * width)
            found = flat.reshape(-1, width)
        else:
            sparse, found = accessor.sparse, np.zeros((accessor.count, width), kind)
            rows = self.view(sparse.indices.bufferView, KINDS[sparse.indices.componentType],
                             sparse.count)  # fmt: skip
            values = self.view(sparse.values.bufferView, kind, sparse.count * width)
            found[rows] = values.reshape(-1, width)
        if accessor.max:
            np.testing.assert_allclose(found.max(0), accessor.max)
            np.testing.assert_allclose(found.min(0), accessor.min)
        return found

    def attribute(self, name):
        return self.array(getattr(self.primitive.attributes, name))

    def frame(self, index):
        """Positions in a key frame of the animation, by glTF's definition of skinning."""
        nodes, (skin,) = self.file.nodes, self.file.skins
        places = {n: (np.array(node.translation), np.array(node.rotation or [0, 0, 0, 1]))
                  for n, node in enumerate(nodes) if node.translation}  # fmt: skip
        (animation,), weights = self.file.animations, None
        for channel in animation.channels:
            values = self.array(animation.samplers[channel.sampler].output)
            place, turn = places.get(channel.target.node, (None, None))
            if channel.target.path == "translation":
                places[channel.target.node] = values[index], turn
            elif channel.target.path == "rotation":
                places[channel.target.node] = place, values[index]
            else:
                weights = values.reshape(FRAMES, -1)[index]
        world = {}

        def walk(node, above):
            local = np.eye(4)
            local[:3, 3] = places[node][0]
            local[:3, :3] = Rotation.from_quat(places[node][1]).as_matrix()
            world[node] = above @ local
            for child in nodes[node].children:
                walk(child, world[node])

        walk(skin.skeleton, np.eye(4))
        binds = self.array(skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)
        moves = np.stack([world[n] @ bind for n, bind in zip(skin.joints, binds, strict=True)])
        targets = [self.array(target["POSITION"]) for target in self.primitive.targets]
        points = self.attribute("POSITION") + np.einsum("e,enc->nc", weights, np.stack(targets))
        points = np.pad(points, ((0, 0), (0, 1)), constant_values=1)
        blended = np.einsum("nk,nkij->nij", self.attribute("WEIGHTS_0"),
                            moves[self.attribute("JOINTS_0")])  # fmt: skip
        return np.einsum("nij,nj->ni", blended, points)[:, :3]


@pytest.fixture(scope="module", params=["glb", "mesh"])
def written(request, tmp_path_factory):
    scene = random_scene()
    path = tmp_path_factory.mktemp("glb") / f"a{FORMATS[request.param].suffix}"
    FORMATS[request.param].write(scene, path)
    return scene, path


def test_every_frame_lies_where_skinning_puts_it(written):
    scene, path = written
    rig, reader = scene.rigged(), Reader(path)
    points = source = None
    if "mesh" in path.name:
        points, source = scene.meshed().vertices, scene.meshed().source
    for frame in range(FRAMES):
        expected = skinned(rig, scene.clip, frame, points, source)
        np.testing.assert_allclose(reader.frame(frame), expected, atol=1e-5)
    times = reader.array(reader.file.animations[0].samplers[0].input)[:, 0]
    np.testing.assert_allclose(times, np.arange(FRAMES) / 10)
    assert reader.mesh.extras["targetNames"] == ["jawOpen", "eyeBlinkLeft"]
    assert [n.name for n in reader.file.nodes[:3]] == list(rig.joint_names)
    np.testing.assert_allclose(reader.attribute("WEIGHTS_0").sum(1), 1, atol=1e-6)
    # Viewers that show no animation show the requested frame.
    np.testing.assert_allclose(reader.file.nodes[1].rotation,
                               np.roll(scene.clip.rotations[1, 1], -1), atol=1e-6)  # fmt: skip


def test_gaussians_by_the_extension(tmp_path):
    scene = random_scene()
    FORMATS["glb"].write(scene, tmp_path / "a.glb")
    reader, own = Reader(tmp_path / "a.glb"), scene.rigged().splats
    name = "KHR_gaussian_splatting"
    assert reader.file.extensionsUsed == [name] and reader.primitive.mode == 0
    says = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    assert reader.primitive.extensions[name] == says
    turns = Rotation.from_quat(reader.attribute(f"{name}:ROTATION"))
    own_turns = Rotation.from_quat(own.quaternions, scalar_first=True)
    assert (turns.inv() * own_turns).magnitude().max() < 1e-5
    np.testing.assert_array_equal(reader.attribute(f"{name}:SCALE"), own.scales)
    np.testing.assert_array_equal(reader.attribute(f"{name}:OPACITY")[:, 0], own.opacities)
    color = reader.attribute(f"{name}:SH_DEGREE_0_COEF_0") * 0.28209479177387814 + 0.5
    np.testing.assert_allclose(color, own.rgb, atol=1e-6)
    light = reader.attribute("COLOR_0")
    assert light[own.rgb < 0.9].max() < own.rgb.max(), (
        "COLOR_0 must be linear light, which is below a display value"
    )


def test_light_of_display_values():
    """Known pairs of the sRGB standard."""
    values = np.float32([0, 0.04045, 0.5, 1])
    np.testing.assert_allclose(srgb_to_linear(values), [0, 0.0031308, 0.2140411, 1], atol=1e-6)


def test_the_mesh_is_one_that_others_read(tmp_path):
    scene = random_scene()
    FORMATS["mesh"].write(scene, tmp_path / "a.glb")
    (found,) = trimesh.load(tmp_path / "a.glb", process=False).geometry.values()
    mesh = scene.meshed()
    np.testing.assert_array_equal(found.faces, mesh.faces)
    np.testing.assert_allclose(found.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(found.visual.uv, mesh.uv, atol=1e-6)  # Trimesh flips v again.
    image = np.asarray(found.visual.material.baseColorTexture.convert("RGB"))
    np.testing.assert_array_equal(image, mesh.texture)
    reader = Reader(tmp_path / "a.glb")
    view = reader.file.bufferViews[reader.file.images[0].bufferView]
    png = reader.blob[view.byteOffset : view.byteOffset + view.byteLength]
    assert Image.open(io.BytesIO(png)).size == (8, 8)


VALIDATE = """
const validator = require('gltf-validator'), data = require('fs').readFileSync(process.argv[1]);
validator.validateBytes(new Uint8Array(data)).then(r => console.log(JSON.stringify(r.issues)));
"""


def test_the_validator_knows_nothing_but_the_extension(written):
    """Khronos's validator, if node finds it (NODE_PATH), only complains of the newer extension."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    _, path = written
    done = subprocess.run(["node", "-e", VALIDATE, str(path)], capture_output=True, text=True)
    if "Cannot find module" in done.stderr:
        pytest.skip("needs node's gltf-validator on NODE_PATH")
    messages = json.loads(done.stdout)["messages"]
    told = {(m["code"], m["pointer"].rpartition("/")[2].split(":")[0]) for m in messages
            if m["severity"] < 2}  # fmt: skip
    splats = {("MESH_PRIMITIVE_INVALID_ATTRIBUTE", "KHR_gaussian_splatting")}
    assert told <= (splats if ".splats" in path.name else set()), messages
