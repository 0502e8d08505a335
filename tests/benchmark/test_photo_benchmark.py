"""The benchmark of the photo path, on a person and subjects made from the same truth."""

import math
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import ndimage
from torchmetrics import MetricCollection

from persona.benchmark.photo import avatar_worker, fit_scores, fitted, picture_scores, views
from persona.benchmark.photo.avatar_table import SHOWN
from persona.benchmark.photo.failures import gross_failures
from persona.benchmark.photo.fitted import num_found
from persona.benchmark.photo.run import run_photo_benchmark
from persona.benchmark.photo.score import ROWS, Scorer, finished_row
from persona.benchmark.photo.table import differences, write_comparison, write_tables
from persona.benchmark.photo.truth import TrueView, folder_of, read_person
from persona.benchmark.photo.views import Place, best_place, best_shift
from persona.data.io import atomic_path, write_json, write_png
from persona.data.layout import FrameData, SubjectInfo, Textures
from persona.data.palette import PART_INDEX, colours_from_classes
from persona.data.preprocess.fit import NOTHING
from persona.data.preprocess.maps import face_labels
from persona.data.preprocess.parts import PARTS, limb_of_vertices
from persona.data.preprocess.photo import PhotoPreprocessor
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.mesh import nearest_faces, rasterize_uv
from persona.runtime.options import plain
from persona.systems.fit import Fit
from persona.systems.schedule import Schedule
from persona.systems.textured_mesh import TexturedMeshMethod
from persona.types import BodyPose, Camera

HEIGHT, WIDTH, TEXELS = 256, 192, 256
GREEN = np.array([0, 200, 0], np.uint8)
FIELDS = ("root", "body", "jaw", "left_hand", "right_hand", "expression", "trans")


def about_vertical(degrees):
    return matrix_from_axis_angle(torch.tensor([0.0, -math.radians(degrees), 0.0]))


class World:
    """One person's body, pose, texture and camera, from which truth and subjects are made."""

    def __init__(self):
        self.body = SmplxBody()
        self.identity = self.body.zero_identity()
        zero = BodyPose.zero(self.body.num_expression)
        joints = zero.joints.clone()
        joints[0] = torch.tensor([torch.pi, 0, 0])
        # Arms down, by different angles.
        joints[16, 2], joints[17, 2] = -0.6, 1.0
        centre = self.body.shape(self.identity)[0].mean(0)
        trans = torch.tensor([0.1, 0.0, 3.5]) - centre * torch.tensor([1.0, 1.0, 0.0])
        self.pose = BodyPose.from_joints(joints, zero.expression, trans)
        _, posed = self.body(self.identity, self.pose)
        middle = posed[:22].mean(0) - torch.tensor([0.1, 0.0, 3.5])
        self.pose = replace(self.pose, trans=trans - middle)
        self.camera = Camera.identity(
            torch.tensor([400.0, 400.0]), torch.tensor([WIDTH / 2, HEIGHT / 2]), HEIGHT, WIDTH
        )
        self.textures = self.make_textures()
        self.painter = views.texture_painter(self.body, self.identity, self.textures)
        self.front = self.painter(self.pose, self.camera)

    def make_textures(self):
        names = ["Face_Neck" if name == "Neck" else name for name in PARTS]
        classes = np.array([PART_INDEX[name] for name in names] + [0], np.uint8)
        surface = rasterize_uv(self.body.uv, self.body.uv_faces, TEXELS)
        limbs = face_labels(surface, self.body.faces, limb_of_vertices(self.body))
        colour = np.stack([120 + 10 * limbs.clip(0) % 90, 0 * limbs + 60, 200 - limbs * 8], -1)
        colour = colour.clip(0, 255).astype(np.uint8)
        parts = colours_from_classes(classes[limbs])
        return Textures(colour, limbs >= 0, colour, parts)

    def write_person(self, folder):
        photo = np.where(self.front.mask[..., None], self.front.image, GREEN)
        write_png(folder / "photo.png", photo)
        shutil.move(folder / "photo.png", folder / "photo.jpg")
        write_json(folder / "meta.json", {"seed": 0, "turn_deg": 0.0})
        _, joints = self.body(self.identity, self.pose)
        truth = {
            "mask": self.front.mask, "parts": self.front.parts * self.front.mask,
            "joints": joints.numpy(), "betas": self.identity.betas.numpy(),
        }  # fmt: skip
        self.write_npz(folder / "truth.npz", truth, self.pose)
        for azimuth in range(0, 360, 45):
            pose = views.turned(self.pose, about_vertical(azimuth))
            self.write_view(folder / f"views/{azimuth:03d}", pose)
        joints = self.pose.joints.clone()
        joints[18, 1] = -1.0
        self.write_view(
            folder / "poses/0",
            BodyPose.from_joints(joints, self.pose.expression, self.pose.trans),
        )

    def write_view(self, stem, pose):
        picture = self.painter(pose, self.camera)
        write_png(stem.with_name(f"{stem.name}.png"), picture.image)
        write_png(stem.with_name(f"{stem.name}_mask.png"), picture.mask)
        self.write_npz(stem.with_name(f"{stem.name}.npz"), {"parts": picture.parts}, pose)

    def write_npz(self, path, arrays, pose):
        arrays = arrays | {name: getattr(pose, name).numpy() for name in FIELDS}
        arrays |= {
            "focal_px": self.camera.focal_px.numpy(), "center_px": self.camera.center_px.numpy()
        }  # fmt: skip
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)

    def write_subject(self, root, *, pose=None, mask=None, textures=None, note=""):
        mask = self.front.mask if mask is None else mask
        zeros = np.zeros((HEIGHT, WIDTH), np.float32)
        photo = np.where(self.front.mask[..., None], self.front.image, GREEN)
        frame = FrameData(
            image=np.where(mask[..., None], photo, np.uint8(255)), mask=mask, camera=self.camera,
            pose=pose or self.pose, depth=zeros, normal=np.zeros((HEIGHT, WIDTH, 3), np.float32),
            seg=colours_from_classes(self.front.parts),
        )  # fmt: skip
        writer = SubjectWriter(root, fresh=True)
        writer.write_identity(self.identity)
        writer.write_frame("captured", 0, frame)
        writer.write_split("captured", [0])
        writer.write_textures("captured", textures or self.textures)
        writer.finish(SubjectInfo(self.body.name, self.body.digest, f"photo x; {note}", "none"))


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def people(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    world.write_person(root / "person_7")
    return root


def settings(subjects, **more):
    values = {
        "code": "test", "subjects": str(subjects), "pattern": None, "avatars": None,
        "height": HEIGHT, "width": WIDTH, "lpips_net": None, "extra_views": [], "truth": [],
    }  # fmt: skip
    return OmegaConf.create(values | more)


@pytest.fixture
def score(world, people, tmp_path):
    """Writes a subject and returns its scores."""

    def scored(**subject):
        world.write_subject(tmp_path / "subjects/p7", **subject)
        config = settings(tmp_path / "subjects")
        return Scorer(config, tmp_path, world.body, None, None)(people / "person_7")

    return scored


def test_the_truth_itself_scores_near_perfect(score, people, tmp_path):
    row = score()
    assert "error" not in row
    assert row["gross"] == ""
    assert row["mask_iou"] > 0.999 and row["parts_iou"] > 0.99
    assert row["joints_mm"] < 1e-2 and row["joints_pa_mm"] < 1e-2 and row["shape_mm"] < 1e-2
    assert row["keypoints_px"] < 0.1 and row["facing_deg"] < 0.1
    assert row["background_share"] < 0.005
    for group in ("front", "side", "back", "poses"):
        assert row[f"texture_{group}_iou"] > 0.98, group
        assert row[f"texture_{group}_psnr"] > 30, group
        assert row[f"texture_{group}_face_iou"] > 0.9, group
    assert row["face_cover"] > 0.95 and row["left_hand_cover"] > 0.95
    assert (tmp_path / "sheet_person_7.png").exists()
    config = settings(tmp_path / "subjects")
    assert finished_row(config, tmp_path, people / "person_7")["gross"] == ""
    config.height = 128
    assert finished_row(config, tmp_path, people / "person_7") is None


def test_somebody_back_to_front_is_called_so(world, score):
    row = score(pose=views.turned(world.pose, about_vertical(180)))
    # Not 180: the spine leans, so a turn about the vertical turns the heading by a little less.
    assert row["facing_deg"] > 170
    assert "facing (1" in row["gross"]
    assert row["joints_pa_mm"] < 1e-2 < row["joints_mm"]


def test_a_shifted_mask_has_the_iou_of_the_shift(world, score):
    moved = np.roll(world.front.mask, 12, axis=1)
    known = (moved & world.front.mask).sum() / (moved | world.front.mask).sum()
    row = score(mask=moved)
    assert row["mask_iou"] == pytest.approx(known, abs=0.005)
    assert known < 0.9 and "mask (IoU" in row["gross"]


def test_a_texture_of_background_and_without_hands_is_a_gross_failure(world, score):
    textures = world.textures
    parts = np.broadcast_to(colours_from_classes(np.array(PART_INDEX["Hair"])), (TEXELS, TEXELS, 3))
    green = np.broadcast_to(GREEN, textures.texture.shape).copy()
    row = score(textures=Textures(green, textures.mask, green, parts.copy()), note="2 people, so")
    assert row["background_share"] > 0.9
    for word in ("ghost", "background", "left hand", "right hand", "face"):
        assert word in row["gross"], word
    assert row["texture_front_iou"] > 0.98


def test_what_only_further_photos_show_is_no_background_of_the_first(world, score):
    """Their people may wear the first one's background on their backs."""
    textures, body = world.textures, world.body
    vertices, _ = body(world.identity, world.pose)
    surface = rasterize_uv(body.uv, body.uv_faces, TEXELS)
    shown = torch.isin(surface.face, nearest_faces(vertices, body.faces, world.camera).unique())
    assert 0.2 < float(shown[surface.mask].float().mean()) < 0.8
    painted = np.where(shown[..., None], textures.texture, GREEN)
    row = score(textures=Textures(painted, textures.mask, painted, textures.seg_inpaint))
    assert row["background_share"] < 0.005 and "background" not in row["gross"]


def test_a_crash_is_a_row_and_a_damaged_person_is_named(world, people, tmp_path):
    config = settings(tmp_path / "none")
    (tmp_path / "none").mkdir()
    row = Scorer(config, tmp_path, world.body, None, None)(people / "person_7")
    assert row["gross"].startswith("refused") and "person_7" in row["error"]
    broken = tmp_path / "people/person_9"
    shutil.copytree(people / "person_7", broken)
    (broken / "truth.npz").write_bytes(b"PK not a zip")
    row = Scorer(config, tmp_path, world.body, None, None)(broken)
    assert "truth.npz" in row["damaged"] and "gross" not in row
    assert (tmp_path / ROWS / "person_9.json").exists()


def test_the_path_is_told_what_is_asked_for(world, people, tmp_path):
    class Told(PhotoPreprocessor):
        def __init__(self):
            self.told = []

        def run(self, photos, root, known):
            self.told.append(known)
            world.write_subject(root)
            return Subject(root)

    path = Told()
    for parts in ([], ["pose"], ["shape", "camera"]):
        config = settings("", truth=parts, preprocess={})
        row = Scorer(config, tmp_path, world.body, path, None)(people / "person_7")
        assert row["gross"] == "" and "error" not in row
    nothing, posed, rest = path.told
    assert nothing == NOTHING
    torch.testing.assert_close(posed.pose.joints, world.pose.joints)
    assert posed.identity is None and posed.focal_px is None and rest.pose is None
    torch.testing.assert_close(rest.identity.betas, world.identity.betas)
    assert rest.focal_px == pytest.approx(400)


def test_who_lacks_the_truth_that_is_told_is_left_out(world, people, tmp_path):
    bare = tmp_path / "person_8"
    shutil.copytree(people / "person_7", bare)
    (bare / "truth.npz").unlink()
    config = settings(tmp_path, truth=["pose", "shape"])
    row = Scorer(config, tmp_path, world.body, None, None)(bare)
    assert "no true pose, shape" in row["damaged"] and "gross" not in row


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truth": ["poses"]}, r"truth=\['poses'\]: it takes pose, shape, camera"),
        ({"truth": "pose"}, r"truth=pose: give a list, such as truth=\[pose\]"),
        ({"truth": ["camera"], "train": True}, r"truth=\[camera\] tells fits; leave train=true"),
        ({"truth": ["pose"], "extra_views": [180]}, r"leave subjects= and extra_views= out"),
        ({"truth": [], "people": None}, "give people=DIR"),
        ({"truth": [], "compare": ["a"]}, r"compare=\[BEFORE,AFTER\]"),
    ],
)
def test_bad_options_are_told_before_the_work(tmp_path, options, said):
    plain = {"compare": None, "people": "x", "subjects": None, "extra_views": [], "train": False}
    with pytest.raises(UserError, match=said):
        run_photo_benchmark(OmegaConf.create(plain | options), tmp_path)


def test_what_the_truth_lacks_is_left_out(people, tmp_path):
    bare = tmp_path / "person_8"
    shutil.copytree(people / "person_7", bare)
    (bare / "truth.npz").unlink()
    shutil.rmtree(bare / "poses")
    true = read_person(bare)
    assert true.joints is None and true.parts is None and true.poses == []
    assert (true.mask == true.views[0].mask).all()


def test_folders_are_found_by_name_number_or_pattern(tmp_path):
    for name in ("p101", "p1010", "x"):
        (tmp_path / name).mkdir()
    assert folder_of("person_101", tmp_path, None).name == "p101"
    assert folder_of("x", tmp_path, None).name == "x"
    assert folder_of("person_1010", tmp_path, "p{number}").name == "p1010"
    (tmp_path / "q101").mkdir()
    with pytest.raises(UserError, match="2 folders fit person_101"):
        folder_of("person_101", tmp_path, None)


@pytest.mark.parametrize(("scale", "x", "y"), [(1.0, 0, 0), (0.8, 14.0, 40.0), (1.3, -31.0, -60.0)])
def test_silhouettes_are_laid_over_each_other(world, scale, x, y):
    mask = world.front.mask
    target = world.painter(world.pose, Place(scale, x, y).camera(world.camera, HEIGHT, WIDTH)).mask
    found = best_place(mask, target)
    assert found.scale == pytest.approx(scale, rel=0.01)
    assert (found.x, found.y) == pytest.approx((x, y), abs=1.5)


def test_a_fatter_asset_lies_where_the_texture_does_and_is_not_shrunk(world):
    view = TrueView("000", world.front.image, world.front.mask, 0, turn=torch.eye(3))
    pose = TrueView("0", view.image, view.mask, pose=world.pose, camera=world.camera)

    def fatter(pose, camera):
        picture = world.painter(pose, camera)
        return picture._replace(mask=ndimage.binary_dilation(picture.mask, iterations=3))

    given = world.pose, world.camera, [view]
    slim, placed, alone = (
        views.paint_views(painter, *given, outlined)["000"].image
        for painter, outlined in ((world.painter, None), (fatter, world.painter), (fatter, None))
    )
    assert (placed == slim).all() and (alone != slim).any()
    slim, placed = (
        views.paint_poses(painter, [pose], world.painter)["0"]
        for painter in (world.painter, fatter)
    )
    assert (placed.image == slim.image).all() and placed.mask.sum() > slim.mask.sum()


def test_an_avatar_is_painted_as_its_texture_is(world):
    method = TexturedMeshMethod(
        body=world.body, renderer=CpuRenderer(), texture_px=TEXELS, supersample=views.SUPERSAMPLE
    )
    system = Fit(
        method=method, losses={}, metrics=MetricCollection({}), optimizer=torch.optim.Adam,
        schedule=Schedule(),
    )  # fmt: skip
    system.build(world.identity, 1)
    system.avatar.texture.copy_(torch.from_numpy(world.textures.inpaint))
    picture = views.avatar_painter(system)(world.pose, world.camera)
    assert fit_scores.iou(picture.mask, world.front.mask) > 0.99
    both = picture.mask & world.front.mask
    assert picture_scores.psnr(picture.image, world.front.image, both) > 40
    assert picture.parts is None


@pytest.mark.slow
def test_an_avatar_is_trained_and_scored_as_its_texture_is(world, score, people, tmp_path, tiny):
    texture = score()
    train = tiny(f"subjects_dir={tmp_path / 'subjects'}", "name=p7", "avatar.levels=1")
    train.pictures.turntable_frames = 0
    job = OmegaConf.create({
        "person": str(people / "person_7"), "train": plain(train), "schedule": "few",
        "body": plain(train.body), "result": str(tmp_path / "runs/few_person_7.json"),
        "height": HEIGHT, "width": WIDTH, "lpips_net": None,
    })  # fmt: skip
    write_json(tmp_path / "runs/few_person_7/config.yaml", "of a run that was stopped")
    row = avatar_worker.run(job)
    assert row["steps"] == 4 and 0 < row["build_seconds"] < row["seconds"]
    for group in ("front", "side", "back", "poses"):
        assert row[f"avatar_{group}_iou"] > 0.7, group
        assert 15 < row[f"avatar_{group}_psnr"] < texture[f"texture_{group}_psnr"], group
    assert row.keys() >= {f"avatar_{key}" for key in SHOWN if f"texture_{key}" in texture}
    assert (tmp_path / "runs/few_person_7/last.ckpt").is_file()
    assert (tmp_path / "runs/few_person_7.png").is_file()


def test_a_shift_to_the_side_is_found():
    wide = np.zeros((20, 90), bool)
    wide[4:15, 40:48] = True
    target = np.zeros((20, 30), bool)
    target[4:15, 21:29] = True
    # Without a shift the render covers columns 10 to 18 of the middle frame, not 21 to 29.
    assert best_shift(wide, target) == 11


@pytest.mark.parametrize("scale", [0.31, 0.9, 2.6])
@pytest.mark.parametrize("focal_factor", [1.0, 0.6])
def test_the_frame_is_found_in_the_photo_whatever_its_focal_length(world, scale, focal_factor):
    photo = np.where(world.front.mask[..., None], world.front.image, GREEN)
    photo = cv2.resize(photo, (480, 640), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(world.front.mask.astype(np.float32), (480, 640)) > 0.99
    size = round(640 / scale), round(480 / scale)
    center = torch.tensor([size[1] / 2 - 4.0, size[0] / 2 + 3.0])
    focal = fitted.photo_camera(640, 480).focal_px * focal_factor / scale
    camera = Camera.identity(focal, center, *size)
    # Frame px = (photo px - photo centre) / scale + frame centre; pixel centres are at +0.5.
    shift = center.numpy() - np.array([240, 320]) / scale + 0.5 / scale - 0.5
    matrix = np.array([[1 / scale, 0, shift[0]], [0, 1 / scale, shift[1]]])
    frame = cv2.warpAffine(photo, matrix, size[::-1])
    there = cv2.warpAffine(mask.astype(np.float32), matrix, size[::-1]) > 0.99
    found = fitted.find_placement(photo, frame, there, camera)
    assert found.scale == pytest.approx(scale, rel=0.004)
    assert found.difference < 5
    np.testing.assert_allclose(found.photo(center.numpy()[None])[0], [240, 320], atol=1e-4)


def test_heading_is_out_of_the_chest(world):
    _, joints = world.body(world.identity, BodyPose.zero(world.body.num_expression))
    np.testing.assert_allclose(fit_scores.heading(joints.numpy()), [0, 0, 1], atol=0.2)


def test_who_is_turned_without_true_joints_is_held_to_the_turn(world, score, people, tmp_path):
    score()
    true = read_person(people / "person_7")
    person = fitted.read_fitted(Subject(tmp_path / "subjects/p7"), world.body, true.image)
    x, _, z = fit_scores.heading(person.joints.numpy())
    turn = float(np.degrees(np.arctan2(x, -z)))
    true = replace(true, joints=None, turn_deg=turn)
    # The remaining angle is how far the chest leans.
    assert fit_scores.facing_deg(true, person) < 10
    for way in (-1, 1):
        off = fit_scores.facing_deg(replace(true, turn_deg=turn + way * 30), person)
        assert off == pytest.approx(30, abs=6)


def test_part_iou_by_hand():
    true = np.zeros((10, 10), np.uint8)
    true[:5], true[5:, :5] = PART_INDEX["Hair"], PART_INDEX["Upper_Lip"]
    found = true.copy()
    found[found == PART_INDEX["Upper_Lip"]] = PART_INDEX["Face_Neck"]
    assert fit_scores.mean_part_iou(found, true) == 1.0
    found[0] = PART_INDEX["Torso"]
    assert fit_scores.mean_part_iou(found, true) == pytest.approx((40 / 50 + 1) / 2)


def test_psnr_by_hand():
    a, b = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    where = np.ones((4, 4), bool)
    assert picture_scores.psnr(a, b, where) == pytest.approx(-20 * np.log10(0.2))
    assert picture_scores.psnr(a, a, where) == picture_scores.MOST_PSNR
    assert picture_scores.psnr(a, b, ~where) is None


def test_people_found_are_read_from_the_warnings():
    assert num_found("photo a.jpg; a.jpg: 3 people, the largest is taken") == 3
    assert num_found("photo a.jpg") == 1


def test_gross_failures_are_judged_only_where_known():
    assert gross_failures({"mask_iou": 0.95, "people_found": 1.0}) == []
    assert gross_failures({"mask_iou": 0.85}) == ["mask (IoU 0.85)"]
    assert gross_failures({"face_db": 11.9, "face_cover": 1.0}) == ["face (11.9 dB)"]
    assert gross_failures({"right_hand_cover": 0.29}) == ["right hand (29% of it)"]
    assert gross_failures({"error": "no person"}) == ["refused (no person)"]


def test_tables_are_compared_person_by_person(tmp_path):
    rng = np.random.default_rng(1)
    old = [
        {"person": f"p{i}", "code": "old", "mask_iou": v, "texture_all_lpips": 0.2,
         "gross": "mask (IoU 0.5)" if i == 0 else ""}
        for i, v in enumerate(rng.uniform(0.8, 0.9, 12))
    ]  # fmt: skip
    new = [{**row, "code": "new", "mask_iou": row["mask_iou"] + 0.05, "gross": ""} for row in old]
    new.append({"person": "q", "code": "new", "damaged": "truth.npz"})
    for rows, name in ((old, "a"), (new, "b")):
        write_tables(tmp_path / name, rows, "command", name)
    assert "q is damaged" in (tmp_path / "b/report.md").read_text()
    text = write_comparison(tmp_path / "a", tmp_path / "b", tmp_path).read_text()
    assert "12 people. Gross failures: old 1, new 0." in text
    assert "| +0.0500 [+0.0500, +0.0500] | after |" in text
    [gap] = [r for r in differences(list(zip(old, new[:12], strict=True))) if "iou" in r["number"]]
    assert gap["difference"] == pytest.approx(0.05)
    with pytest.raises(UserError, match="no person in common"):
        write_tables(tmp_path / "c", [{"person": "z", "gross": ""}], "command", "c")
        write_comparison(tmp_path / "a", tmp_path / "c", tmp_path)
