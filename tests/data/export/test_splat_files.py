"""Splat files, read by other libraries or by readers written from the formats' descriptions."""

import gzip
import io
import json
import shutil
import struct
import subprocess
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from splat_scene import COUNT, FRAMES, random_scene, random_splats, whole_body_scene, world_joints

from persona.data.export.gsplat_files import gsplat_bytes, write_compressed_ply, write_splat
from persona.data.export.npz import write_npz
from persona.data.export.ply import write_ply
from persona.data.export.scene import Scene, Splats
from persona.data.export.sog import _coded, write_sog
from persona.data.export.splattie import write_splattie
from persona.data.export.spz import write_spz, write_spz4
from persona.errors import UserError

C0 = 0.28209479177387814


def same_turns(found, expected, tolerance):
    """Asserts that rotations (w, x, y, z) differ by less than ``tolerance`` radians."""
    a, b = (Rotation.from_quat(q, scalar_first=True) for q in (found, expected))
    assert (a.inv() * b).magnitude().max() < tolerance


def test_ply_has_the_conventions_of_gaussian_splatting(tmp_path):
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    write_ply(random_scene(frame=2), tmp_path / "a.ply")
    file = plyfile.PlyData.read(tmp_path / "a.ply")
    (vertex,) = file.elements
    names = [p.name for p in vertex.properties]
    assert names == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
        *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert any("antialiased" in comment for comment in file.comments)
    table = np.stack([vertex[name] for name in names], 1).astype(np.float64)
    own = random_splats(2)
    np.testing.assert_allclose(table[:, :3], own.means * [1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(table[:, 6:9] * C0 + 0.5, own.rgb, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-table[:, 9])), own.opacities, atol=1e-5)
    np.testing.assert_allclose(np.exp(table[:, 10:13]), own.scales, rtol=1e-5)
    upside = Rotation.from_euler("x", 180, degrees=True)
    turned = upside * Rotation.from_quat(own.quaternions, scalar_first=True)
    same_turns(table[:, 13:], turned.as_quat(scalar_first=True), 1e-5)


def test_gsplat_writes_the_same_ply(tmp_path):
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    write_ply(random_scene(frame=1), tmp_path / "a.ply")
    ours = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    theirs = plyfile.PlyData.read(io.BytesIO(gsplat_bytes(random_scene(frame=1), "ply")))["vertex"]
    names = [p.name for p in theirs.properties]
    assert len(theirs) == COUNT and {"x", "f_dc_2", "opacity", "scale_2", "rot_3"} <= {*names}
    for name in names:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-6, err_msg=name)


def nearest_of(found, splats):
    """Index of the Gaussian nearest to each point, as files change the order."""
    away = np.linalg.norm(found[:, None] - splats.means, axis=-1)
    assert sorted(away.argmin(1)) == list(range(COUNT)), "a Gaussian is missing or repeated"
    return away.argmin(1)


def test_splat_is_read_back(tmp_path):
    write_splat(random_scene(frame=2), tmp_path / "a.splat")
    kind = [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("turn", "u1", 4)]
    table = np.frombuffer((tmp_path / "a.splat").read_bytes(), kind)
    truth = random_splats(2).turned_about_x()
    who = nearest_of(table["mean"], truth)
    np.testing.assert_allclose(table["mean"], truth.means[who], atol=1e-6)
    np.testing.assert_allclose(table["scale"], truth.scales[who], rtol=1e-5)
    np.testing.assert_allclose(table["rgba"][:, :3] / 255, truth.rgb[who], atol=1 / 254)
    np.testing.assert_allclose(table["rgba"][:, 3] / 255, truth.opacities[who], atol=1 / 254)
    same_turns(table["turn"].astype(float) - 127.5, truth.quaternions[who], 0.03)


def test_compressed_ply_is_read_back(tmp_path):
    """By PlayCanvas's description: bounds of a chunk, then four packed values of 32 bits each."""
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    write_compressed_ply(random_scene(frame=2), tmp_path / "a.compressed.ply")
    file = plyfile.PlyData.read(tmp_path / "a.compressed.ply")
    assert all(element.properties for element in file), "PlayCanvas refuses empty elements"
    (chunk,), vertex = file["chunk"].data, file["vertex"].data
    fields = {name: vertex[name].astype(np.uint32) for name in vertex.dtype.names}

    def bits(name, *sizes):
        low = 32 - np.cumsum(sizes)
        return np.stack(
            [
                (fields[name] >> k & (2**n - 1)) / (2**n - 1)
                for k, n in zip(low, sizes, strict=True)
            ],
            1,
        )

    def between(name, ends):
        low, high = (np.array([chunk[f"{end}_{e}"] for e in ends]) for end in ("min", "max"))
        return low + bits(name, 11, 10, 11) * (high - low)

    truth = random_splats(2).turned_about_x()
    means = between("packed_position", "xyz")
    who = nearest_of(means, truth)
    np.testing.assert_allclose(means, truth.means[who], atol=0.005)  # About 5 m in 2**10 steps.
    scales = np.exp(between("packed_scale", ["scale_x", "scale_y", "scale_z"]))
    np.testing.assert_allclose(scales, truth.scales[who], rtol=0.01)
    colour = bits("packed_color", 8, 8, 8, 8)
    low, high = (np.array([chunk[f"{end}_{e}"] for e in "rgb"]) for end in ("min", "max"))
    np.testing.assert_allclose(low + colour[:, :3] * (high - low), truth.rgb[who], atol=0.005)
    np.testing.assert_allclose(colour[:, 3], truth.opacities[who], atol=1 / 254)
    largest = fields["packed_rotation"] >> 30
    others = (bits("packed_rotation", 2, 10, 10, 10)[:, 1:] - 0.5) * 2**0.5
    turns = np.zeros((COUNT, 4))
    for turn, place, rest in zip(turns, largest, others, strict=True):
        turn[np.arange(4) != place] = rest
        turn[place] = (1 - (rest**2).sum()) ** 0.5
    same_turns(turns, truth.quaternions[who], 0.01)


def read_spz(path):
    """A plain reader of version 3, written from the format's description."""
    data = gzip.decompress(path.read_bytes())
    magic, version, count, degree, bits, flags, reserved = struct.unpack("<4sIIBBBB", data[:16])
    assert (magic, version, degree, flags, reserved) == (b"NGSP", 3, 0, 1, 0)
    assert len(data) == 16 + count * (9 + 1 + 3 + 3 + 4)
    found = {name: [] for name in ("means", "opacities", "rgb", "scales", "quaternions")}
    at = 16
    for _ in range(3 * count):
        number = int.from_bytes(data[at : at + 3], "little", signed=True)
        found["means"].append(number / 2**bits)
        at += 3
    found["opacities"] = [b / 255 for b in data[at : at + count]]
    at += count
    found["rgb"] = [(b / 255 - 0.5) / 0.15 * C0 + 0.5 for b in data[at : at + 3 * count]]
    at += 3 * count
    found["scales"] = [np.exp(b / 16 - 10) for b in data[at : at + 3 * count]]
    at += 3 * count
    for (packed,) in struct.iter_unpack("<I", data[at:]):
        left, xyzw = packed, [0.0] * 4
        largest = packed >> 30
        for component in (3, 2, 1, 0):
            if component != largest:
                size = (left & 511) / 511 * 0.5**0.5
                xyzw[component] = -size if left & 512 else size
                left >>= 10
        xyzw[largest] = (1 - sum(v * v for v in xyzw)) ** 0.5
        found["quaternions"].append([xyzw[3], *xyzw[:3]])
    wide = ("means", "rgb", "scales")
    return {k: np.reshape(v, (count, 3)) if k in wide else np.array(v) for k, v in found.items()}


def test_spz_keeps_what_its_bits_can_hold(tmp_path):
    write_spz(random_scene(frame=2), tmp_path / "a.spz")
    found, own = read_spz(tmp_path / "a.spz"), random_splats(2)
    np.testing.assert_allclose(found["means"], own.means, atol=0.5 / 4096 + 1e-7)
    np.testing.assert_allclose(found["opacities"], own.opacities, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found["rgb"], own.rgb, atol=0.5 / 255 / 0.15 * C0 + 1e-6)
    np.testing.assert_allclose(np.log(found["scales"]), np.log(own.scales), atol=0.5 / 16 + 1e-6)
    same_turns(found["quaternions"], own.quaternions, 0.006)


def test_spz_4_has_the_streams_of_version_3(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="needs persona[export]")
    scene = random_scene(frame=2)
    write_spz4(scene, tmp_path / "a.spz")
    data = (tmp_path / "a.spz").read_bytes()
    assert struct.unpack("<4sIIBBBBI12s", data[:32]) == (
        *(b"NGSP", 4, COUNT, 0, 12, 1, 5, 32),
        bytes(12),
    )
    at, streams = 32 + 5 * 16, []
    for packed, plain in struct.iter_unpack("<QQ", data[32:at]):
        streams.append(zstandard.ZstdDecompressor().decompress(data[at : at + packed]))
        assert len(streams[-1]) == plain
        at += packed
    assert at == len(data)
    write_spz(scene, tmp_path / "b.spz")
    assert b"".join(streams) == gzip.decompress((tmp_path / "b.spz").read_bytes())[16:]


def test_spz_says_where_it_ends(tmp_path):
    far = random_splats(0).means * 3000
    scene = random_scene()
    moved = lambda frame: Splats(far, *list(vars(random_splats(0)).values())[1:])  # noqa: E731
    with pytest.raises(UserError, match=r"a\.spz: SPZ ends 2048 m from the origin"):
        write_spz(Scene(**(vars(scene) | {"posed": moved})), tmp_path / "a.spz")
    assert not list(tmp_path.iterdir())


def read_sog(path):
    """A plain reader, written from the format's description; keeps the file's axes."""
    archive = zipfile.ZipFile(path)
    meta = json.loads(archive.read("meta.json"))
    assert (meta["version"], meta["antialias"]) == (2, True)

    def pixels(kind, index=0):
        image = Image.open(io.BytesIO(archive.read(meta[kind]["files"][index])))
        return np.array(image.convert("RGBA"), np.int64).reshape(-1, 4)[: meta["count"]]

    whole = pixels("means", 0)[:, :3] + 256 * pixels("means", 1)[:, :3]
    low, high = (np.array(meta["means"][name]) for name in ("mins", "maxs"))
    value = low + whole / 65535 * (high - low)
    rest = pixels("quats")
    turns = np.empty((meta["count"], 4))
    for row, (a, b, c, tag) in zip(turns, rest.tolist(), strict=True):
        others = [(v / 255 - 0.5) * 2**0.5 for v in (a, b, c)]
        row[:] = np.insert(others, tag - 252, (1 - sum(v * v for v in others)) ** 0.5)
    sh0 = pixels("sh0")
    return {
        "means": np.sign(value) * np.expm1(np.abs(value)),
        "scales": np.exp(np.array(meta["scales"]["codebook"])[pixels("scales")[:, :3]]),
        "quaternions": turns,
        "rgb": np.array(meta["sh0"]["codebook"])[sh0[:, :3]] * C0 + 0.5,
        "opacities": sh0[:, 3] / 255,
    }


def paired(found, own):
    """``found`` in the order of ``own``, by nearest means, as the file changes the order."""
    rows = np.linalg.norm(own.means[:, None] - found["means"], axis=-1).argmin(1)
    assert sorted(rows) == list(range(COUNT))
    return {name: values[rows] for name, values in found.items()}


def test_sog_keeps_what_its_bytes_can_hold(tmp_path):
    write_sog(random_scene(frame=2), tmp_path / "a.sog")
    own = random_splats(2).turned_about_x()
    found = paired(read_sog(tmp_path / "a.sog"), own)
    np.testing.assert_allclose(found["means"], own.means, atol=4e-4)
    np.testing.assert_allclose(found["opacities"], own.opacities, atol=0.5 / 255 + 1e-6)
    # Close, as the codebook has 256 values for 120 numbers.
    np.testing.assert_allclose(found["rgb"], own.rgb, atol=0.01)
    np.testing.assert_allclose(found["scales"], own.scales, rtol=0.03)
    same_turns(found["quaternions"], own.quaternions, 0.02)


def test_a_codebook_is_as_good_as_one_can_be():
    """At most 10 % above Panter and Dite's (1951) optimum for normally distributed numbers."""
    values = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    codes, book = _coded(values)
    error = np.array(book)[codes] - values
    assert book == sorted(book) and len(book) == 256
    assert np.square(error).mean() < 1.1 * 3**0.5 * np.pi / 2 / 256**2
    codes, book = _coded(np.ones((4, 3), np.float32))
    assert (np.array(book)[codes] == 1).all()


def covariances(scales, quaternions):
    turns = Rotation.from_quat(quaternions, scalar_first=True).as_matrix()
    return np.einsum("nik,nk,njk->nij", turns, np.square(scales), turns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "ending", "places", "sizes"),
    [
        (write_spz, "spz", 2e-4, 0.05),
        (write_spz4, "spz", 2e-4, 0.05),
        (write_sog, "sog", 4e-4, 0.06),
    ],
)
def test_others_read_the_same(tmp_path, write, ending, places, sizes):
    """PlayCanvas's splat-transform converts the file to a .ply, which plyfile reads."""
    program = shutil.which("splat-transform")
    if program is None:
        pytest.skip("needs npm install --global @playcanvas/splat-transform")
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    write(random_scene(frame=2), tmp_path / f"a.{ending}")
    command = [program, str(tmp_path / f"a.{ending}"), str(tmp_path / "b.ply")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    vertex = plyfile.PlyData.read(tmp_path / "b.ply")["vertex"]

    def columns(*names):
        return np.stack([np.array(vertex[name], np.float64) for name in names], 1)

    own = random_splats(2).turned_about_x()
    found = {
        "means": columns("x", "y", "z"),
        "rgb": columns("f_dc_0", "f_dc_1", "f_dc_2") * C0 + 0.5,
        "opacities": 1 / (1 + np.exp(-columns("opacity")[:, 0])),
        "covariances": covariances(
            np.exp(columns("scale_0", "scale_1", "scale_2")),
            columns("rot_0", "rot_1", "rot_2", "rot_3"),
        ),
    }
    found = paired(found, own)
    np.testing.assert_allclose(found["means"], own.means, atol=places)
    np.testing.assert_allclose(found["rgb"], own.rgb, atol=0.01)
    np.testing.assert_allclose(found["opacities"], own.opacities, atol=0.5 / 255 + 1e-4)
    shapes = covariances(own.scales, own.quaternions)
    error = np.linalg.norm(found["covariances"] - shapes, axis=(1, 2))
    assert (error / np.linalg.norm(shapes, axis=(1, 2))).max() < 2 * sizes


def test_splattie_has_the_frame_its_joints_and_bones(tmp_path):
    plyfile = pytest.importorskip("plyfile", reason="needs persona[export]")
    scene = whole_body_scene()
    write_splattie(scene, tmp_path / "a.splattie")
    archive = zipfile.ZipFile(tmp_path / "a.splattie")
    manifest = json.loads(archive.read("manifest.json"))
    assert (manifest["format"], manifest["formatVersion"]) == ("splattie", "0.3.0")
    named = [
        manifest["avatar"]["splat"]["file"],
        *(manifest["animation"][part]["file"] for part in ("skeleton", "weights")),
        manifest["widget"]["config"],
    ]
    assert sorted(["manifest.json", *named]) == sorted(archive.namelist())
    vertex = plyfile.PlyData.read(io.BytesIO(archive.read(named[0])))["vertex"]
    own = scene.posed(1)
    places = np.stack([vertex[k] for k in "xyz"], 1)
    # The widget looks at the origin, so all Gaussians must be around it and in view.
    middle = (own.means.min(0) + own.means.max(0)) / 2
    np.testing.assert_allclose(places, own.means - middle, atol=1e-6)
    states = json.loads(archive.read(named[3]))
    camera = states["states"]["idle"]["camera"]
    assert abs(places).max() < camera["radius"] * np.tan(np.radians(camera["fov"] / 2))
    skeleton, lbs = (json.loads(archive.read(name)) for name in named[1:3])
    assert skeleton["names"][23] == "left_eye_smplhf" and skeleton["parents"][0] == -1
    rig = scene.rigged()
    joints = np.stack(world_joints(rig, scene.clip, 1))[:, :3, 3]
    np.testing.assert_allclose(skeleton["restPositions"], joints - middle, atol=1e-4)
    shape = (lbs["numGaussians"], lbs["k"])
    found = np.reshape(lbs["indices"], shape), np.reshape(lbs["weights"], shape)
    for bones, weights, own_bones, own_weights in zip(
        *found, *vars(rig.skin).values(), strict=True
    ):
        kept = dict(zip(bones[weights > 0], weights[weights > 0], strict=True))
        assert kept == pytest.approx(dict(zip(own_bones, own_weights, strict=True)), abs=1e-5)


def test_splattie_is_for_whole_bodies(tmp_path):
    with pytest.raises(UserError, match="holds whole bodies; choose html or glb"):
        write_splattie(random_scene(), tmp_path / "a.splattie")


def test_usd_has_the_avatar_in_every_frame(tmp_path):
    pytest.importorskip("pxr", reason="needs persona[export]")
    from pxr import Usd, UsdGeom

    from persona.data.export.usd import write_usd

    write_usd(random_scene(), tmp_path / "a.usdc")
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and stage.GetTimeCodesPerSecond() == 10
    (prim,) = [p for p in stage.Traverse() if p.GetTypeName() == "ParticleField3DGaussianSplat"]

    def array(name, frame):
        return prim.GetAttribute(name).Get(frame)

    for frame in range(FRAMES):
        own = random_splats(frame)
        np.testing.assert_array_equal(np.array(array("positions", frame)), own.means)
        np.testing.assert_array_equal(np.array(array("scales", frame)), own.scales)
        np.testing.assert_array_equal(np.array(array("opacities", frame)), own.opacities)
        color = np.array(array("radiance:sphericalHarmonicsCoefficients", frame)) * C0 + 0.5
        np.testing.assert_allclose(color, own.rgb, atol=1e-6)
        turns = [[q.GetReal(), *q.GetImaginary()] for q in array("orientations", frame)]
        same_turns(turns, own.quaternions, 1e-5)
    assert prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 0


def test_npz_holds_the_rig_the_motion_and_every_frame(tmp_path):
    scene = random_scene()
    write_npz(scene, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["posed_means"].shape == (FRAMES, COUNT, 3)
        np.testing.assert_array_equal(file["posed_rgb"][2], random_splats(2).rgb)
        np.testing.assert_array_equal(file["bind_means"], scene.rigged().splats.means)
        assert file["joint_names"].tolist() == ["pelvis", "spine1", "left_hip"]
        assert file["expression_names"].tolist() == ["jawOpen", "eyeBlinkLeft"]
        assert file["clip_fps"] == 10 and file["clip_rotations"].shape == (FRAMES, 3, 4)
        documented = write_npz.__doc__
        for name in file.files:
            assert f"``{name}``" in documented or name.startswith(("bind_", "posed_")), name
