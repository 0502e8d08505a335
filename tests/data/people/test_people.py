"""Random people: exact maps, photographs, training batches, and errors."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from persona.benchmark.photo.truth import read_person
from persona.data.palette import PART_INDEX
from persona.data.people import folder
from persona.data.people.assets import random_outfit, read_assets
from persona.data.people.backdrop import KINDS, backdrop
from persona.data.people.degrade import blur, jpeg
from persona.data.people.dressed import SLOTS, dress, pose_dressed
from persona.data.people.folder import light_turned, write_people
from persona.data.people.look import random_look
from persona.data.people.render import render_person
from persona.data.people.scene import Casting, Stance, frame_by, random_betas, stand
from persona.data.people.shots import Sample, Shots
from persona.data.people.stream import PeopleStream, compose, mirror
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose


@pytest.fixture(scope="module")
def casting(shared_data, body):
    return Casting(read_assets(shared_data / "makehuman_cc0", body), body, ["walk"], num_prints=2)


@pytest.fixture(scope="module")
def shot(casting, body):
    """A person in front of a camera: person, posed vertices, camera and maps."""
    person = casting.person(np.random.default_rng(3))
    joints = casting.pose(np.random.default_rng(4))
    pose = stand(body, joints, Stance(0.3))
    vertices, _ = pose_dressed(body, person.outfit.mesh, person.betas, pose)
    shift, camera = frame_by(vertices, (256, 192), 1.6, 0.9)
    vertices = vertices + shift
    maps = render_person(person.outfit.mesh, vertices, person.look, casting.assets.textures, camera)
    return person, vertices, camera, maps


def test_a_bare_body_is_the_body(body):
    identity, pose = body.zero_identity(), BodyPose.zero(body.num_expression)
    identity.betas[:3] = torch.tensor([1.0, -0.5, 0.3])
    pose.body[:] = 0.2
    pose.trans[:] = torch.tensor([0.1, 0.2, 0.3])
    vertices, joints = pose_dressed(body, dress(body, []), identity.betas, pose)
    expected, expected_joints = body(identity, pose)
    torch.testing.assert_close(vertices, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(joints, expected_joints, atol=2e-5, rtol=0)


def test_a_shape_has_as_many_coefficients_as_the_body_keeps(body):
    """What is drawn for people does not depend on it."""
    few, many = (
        random_betas(each, np.random.default_rng(5)) for each in (SmplxBody(num_betas=10), body)
    )
    assert len(few) == 10 and len(many) > 10
    assert few.all() and few.equal(many[:10]) and not many[12:].any()


def test_maps_agree_with_the_mesh(shot):
    person, vertices, camera, maps = shot
    mesh = person.outfit.mesh
    render = rasterize(vertices, mesh.faces, camera)
    # Slot 4, hair with holes, shows what is behind it, or nothing.
    assert not (maps.mask & ~render.mask).any()
    solid = render.mask & (mesh.slot[render.face.clamp(min=0)] != 4)
    torch.testing.assert_close(maps.depth[solid], render.depth[solid], atol=1e-4, rtol=0)
    assert (maps.part[solid] == mesh.part[render.face[solid]]).all()
    assert (maps.part > 0).equal(maps.mask)
    length = maps.normal.norm(dim=0)[maps.mask]
    torch.testing.assert_close(length, torch.ones_like(length))
    assert maps.colour.min() >= 0 and maps.colour.max() <= 1


def test_the_place_on_the_body_projects_to_its_pixel(shot, body):
    """The body vertex nearest to a pixel's place on the surface projects to that pixel."""
    _, vertices, camera, maps = shot
    hand = maps.part == PART_INDEX["Left_Hand"]
    row, column = hand.nonzero().unbind(-1)
    places = maps.surface[:, row, column].T
    nearest = torch.cdist(places, body.template).argmin(1)
    there = camera.project(vertices[nearest])
    pixels = torch.stack((column, row), -1) + 0.5
    assert len(row) > 10 and (there - pixels).norm(dim=-1).median() < 2.5


def test_a_photo_of_other_settings_is_made_again(tmp_path, monkeypatch):
    """With the same settings the photo is kept; a complete person is not made again."""
    assets, out = tmp_path / "assets", tmp_path / "out"
    (assets / "hair/bob").mkdir(parents=True)
    made, photo = [], out / "person_7/photo.jpg"
    for name in ("SmplxBody", "read_assets", "Casting"):
        monkeypatch.setattr(folder, name, lambda *of, **by: None)

    def stands_in(casting, folder, *of):
        made.append(photo.is_file())
        photo.write_bytes(b"as it was")

    monkeypatch.setattr(folder, "_write_person", stands_in)

    def write(motions=("walk",), own=0.5, **options):
        write_people(assets, out, count=1, seed=7, motions=motions, own=own, **options)
        return made.pop()

    assert not write(photos_only=True)
    assert write() and write(height=64) and write(num_poses=1), (
        "the photo does not depend on these options"
    )
    assert not write(own=0.2) and write(own=0.2)
    assert not write(own=0.2, motions=["dance"]) and write(own=0.2, motions=["dance"])
    (assets / "hair/curls").mkdir()
    assert not write(own=0.2, motions=["dance"])
    (out / "person_7/photo.json").unlink()
    assert not write(own=0.2, motions=["dance"]), "a photo without its settings is made again"
    (out / "person_7/meta.json").write_text('{"walk": false}')
    write_people(assets, out, count=1, seed=7, motions=["walk"])
    assert not made and photo.is_file()
    write(walk=True)
    assert not (out / "person_7/meta.json").exists(), "views of the other kind are removed"


@pytest.mark.slow
def test_a_person_goes_on_from_the_photo(shared_data, tmp_path):
    def write(out, **options):
        write_people(
            shared_data / "makehuman_cc0", out, count=1, seed=5, motions=["walk"], num_poses=0,
            **options,
        )  # fmt: skip
        return out / "person_5"

    alone = write(tmp_path / "a", photos_only=True)
    assert {path.name for path in alone.iterdir()} == {"photo.jpg", "photo.json", "truth.npz"}
    photo = (alone / "photo.jpg").read_bytes()
    kept = alone / "photo.jpg"
    kept.write_bytes(photo + b"x")  # As if another machine, which rounds differently, had made it.
    write(tmp_path / "a", height=64)
    assert kept.read_bytes() == photo + b"x"
    whole = write(tmp_path / "b", height=64)
    assert (whole / "photo.jpg").read_bytes() == photo
    true = read_person(whole)
    assert true.views[3].image.shape == (64, 48, 3) and true.mask.shape == (768, 576)
    front = next(view for view in true.views if view.azimuth == 0)
    small = cv2.resize(true.mask.astype(np.float32), (48, 64), interpolation=cv2.INTER_AREA) > 0.5
    assert (small & front.mask).sum() > 0.95 * (small | front.mask).sum()


def test_light_turns_with_somebody(casting, body):
    """A lamp in front of a person who turns to the back is behind in the view; heights stay."""
    joints = torch.zeros(55, 3)
    before, after = (stand(body, joints, Stance(yaw)) for yaw in (0.0, np.pi))
    lamps = torch.nn.functional.normalize(torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]]), dim=-1)
    look = random_look(casting.assets, casting.person(np.random.default_rng(0)).outfit,
                       np.random.default_rng(1))  # fmt: skip
    turned = light_turned(replace(look, lamp=lamps), before, after)
    torch.testing.assert_close(turned.lamp, lamps * torch.tensor([-1.0, 1, -1]), atol=1e-5, rtol=0)
    side = light_turned(replace(look, lamp=lamps), before, stand(body, joints, Stance(np.pi / 2)))
    # If the person turns to the picture's right, a lamp in front of them goes there too.
    assert side.lamp[0, 0] > 0.8 and abs(side.lamp[0, 2]) < 1e-5


def test_stance(casting, body):
    joints = torch.zeros(55, 3)
    for yaw, axis in ((0.0, (0.0, 0.0, -1.0)), (np.pi / 2, (1.0, 0.0, 0.0))):
        vertices, _ = body(body.zero_identity(), stand(body, joints, Stance(yaw)))
        points = body.keypoints(vertices, body.shape(body.zero_identity())[1])
        look = points[0] - points[[3, 4]].mean(0)
        assert torch.dot(look / look.norm(), torch.tensor(axis)) > 0.9


def test_framed_people_fill_the_picture(shot):
    _, vertices, camera, _ = shot
    pixels = camera.project(vertices)
    low, high = pixels.amin(0), pixels.amax(0)
    share = ((high - low) / torch.tensor([192.0, 256.0])).max()
    assert 0.8 < share < 1.0 and low.min() > 0 and (high < torch.tensor([192.0, 256.0])).all()


def test_outfits_vary_between_people(casting):
    """Forty people get more than 20 outfits with different numbers of faces."""
    sizes = {len(casting.person(np.random.default_rng(s)).outfit.mesh.faces) for s in range(40)}
    assert len(sizes) > 20


def test_long_skirts_reach_below_the_knee_and_hide_the_legs(casting):
    """Legs under a long skirt are hidden, as they would cross the skinned cloth at each stride."""
    body = casting.body
    knee = float((body.joint_regressor @ body.template)[4, 1])
    lower = torch.tensor([1, 2, 4, 5, 7, 8, 10, 11])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        mesh = random_outfit(casting.assets, body, rng, own=1.0, long_skirts=1.0).mesh
        cloth = mesh.rest[mesh.faces[mesh.part == PART_INDEX["Upper_Clothing"]]]
        hem = float(cloth[..., 1].min())
        assert hem < knee and not (mesh.part == PART_INDEX["Lower_Clothing"]).any()
        skin = mesh.faces[mesh.slot == SLOTS.index("skin")]
        legs = mesh.rest[skin[mesh.weights[skin][..., lower].sum(-1).amin(1) > 0.99]]
        assert float(legs[..., 1].amax(1).min()) < hem + 0.1, "legs are missing below the hem"
        assert not ((legs[..., 1] > hem + 0.1) & (legs[..., 1] < knee + 0.2)).all(1).any()
    plain = [random_outfit(casting.assets, body, np.random.default_rng(1), **o) for o in (
        {}, {"long_skirts": 0.0},
    )]  # fmt: skip
    assert plain[0].mesh.rest.equal(plain[1].mesh.rest)


def test_same_seed_same_person(casting):
    one, two = (casting.person(np.random.default_rng(9)) for _ in range(2))
    assert one.betas.equal(two.betas) and one.look.ink.equal(two.look.ink)
    assert one.outfit.mesh.rest.equal(two.outfit.mesh.rest)


@pytest.fixture(scope="module")
def samples(casting):
    """Two renders of people, as a worker process makes them."""
    torch.manual_seed(0)
    shots = iter(Shots(casting, num_outfits=1))
    return Sample(*map(torch.cat, zip(*(tuple(vars(next(shots)).values()) for _ in range(2)),
                                      strict=True)))  # fmt: skip


@pytest.mark.parametrize("small", [0.0, 1.0])
def test_batches(casting, small):
    torch.manual_seed(0)
    stream = PeopleStream(
        casting, batch_size=2, small_share=small, num_outfits=1, ring=4, backdrops=2
    )
    batches = iter(stream)
    batch = next(batches)
    batches.close()
    truth = batch.truth
    count, size = (8, (256, 192)) if small else (2, (512, 384))
    assert batch.image.shape == (count, 3, *size) and batch.prompt.shape == (count, 8, *size)
    assert truth.alpha.min() >= 0 and truth.alpha.max() <= 1 and (truth.parts > 0).any()
    assert (truth.joints[:, 0, 2] == 0).all() and truth.joints[..., 2].abs().max() < 1.5
    again = mirror(mirror(batch))
    assert again.image.equal(batch.image) and again.prompt.equal(batch.prompt)
    for name, value in vars(truth).items():
        torch.testing.assert_close(getattr(again.truth, name), value)
    once = mirror(batch).truth
    left, right = PART_INDEX["Left_Shoe"], PART_INDEX["Right_Shoe"]
    assert (once.parts == left).equal((truth.parts == right).flip(2))
    torch.testing.assert_close(once.surface[:, 0], -truth.surface[:, 0].flip(2))
    torch.testing.assert_close(once.joints[:, 20, 0], 1 - truth.joints[:, 21, 0])


@pytest.mark.parametrize("stride", [1, 2])
def test_joints_lie_in_the_person_at_both_sizes(samples, stride):
    """Pixels at the true places of pelvis, spine and chest show the person."""
    grounds = torch.zeros(1, 3, 512, 384, dtype=torch.uint8)
    truth = compose(samples, grounds, np.random.default_rng(1), stride).truth
    height, width = truth.alpha.shape[2:]
    shares = []
    for person in range(2):
        place = truth.joints[person, [0, 3, 6, 9], :2]
        inside = ((place > 0.02) & (place < 0.98)).all(-1)
        column, row = (place[inside] * torch.tensor([width, height])).long().unbind(-1)
        shown = truth.parts[person, row, column] > 0
        shares += shown.float().tolist()
    assert len(shares) >= 4 and sum(shares) / len(shares) > 0.7


def test_what_a_renderer_cannot_do_is_raised_where_batches_are_drawn(casting, monkeypatch):
    def broken(self, *args):
        raise RuntimeError("no card")

    monkeypatch.setattr(Shots, "_shoot", broken)
    with pytest.raises(RuntimeError, match="no card"):
        next(iter(PeopleStream(casting, batch_size=1, num_outfits=1, ring=2, backdrops=1)))


def test_missing_assets_are_named(body, tmp_path):
    with pytest.raises(UserError, match="no shoes"):
        read_assets(tmp_path, body)


@pytest.mark.parametrize("kind", KINDS)
def test_backdrops(kind):
    image = backdrop(np.random.default_rng(0), 64, 48, kind)
    assert image.shape == (64, 48, 3) and image.min() >= 0 and image.max() <= 1
    assert (np.ptp(image, (0, 1)).max() == 0) == (kind == "plain")


def test_fine_steps_of_jpeg_change_nothing_and_coarse_ones_do():
    image = torch.rand(2, 3, 32, 24)
    torch.testing.assert_close(jpeg(image, 1e-3), image, atol=1e-4, rtol=0)
    flat = jpeg(image, 4000.0)
    torch.testing.assert_close(flat[:, :, :8, :8], flat[:, :, :1, :1].expand(-1, -1, 8, 8))


def test_blur_keeps_the_sum():
    image = torch.zeros(1, 1, 21, 21)
    image[..., 10, 10] = 1
    out = blur(image, 1.2)
    assert abs(float(out.sum()) - 1) < 1e-5
    variance = (out[0, 0].sum(0) * (torch.arange(21) - 10.0) ** 2).sum()
    assert abs(float(variance) - 1.44) < 0.12
