"""Parts of heads, tested without reference data: layers, warp, latents, LoRA, initial points."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from persona.errors import UserError
from persona.modules.body.rotation import (
    matrix_from_axis_angle,
    nearest_rotation,
    quaternion_from_matrix,
    quaternion_product,
)
from persona.modules.head.attributes import (
    PEGASUS_CATEGORIES,
    PEGASUS_SOURCE,
    PERSE_CATEGORIES,
    PERSE_SOURCE,
)
from persona.modules.head.builder import PerseBuilder, PointAvatarBuilder
from persona.modules.head.canonical import GaussianNetwork, SurfaceNetwork
from persona.modules.head.deformer import Bases, Deformer
from persona.modules.head.encoders import ClipEncoder, LocalEncoder
from persona.modules.head.latent import CodeNetwork, FeatureCodes, Slots
from persona.modules.head.layers import (
    WeightNormLinear,
    encode_position,
    inverse,
    point_jacobian,
)
from persona.modules.head.lora import LoraPair, attach_lora, set_strength, train_lora_only
from persona.modules.head.template import HeadTemplate, warp
from persona.types import Pose

PARENTS = (-1, 0, 1, 1, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random_template(vertices=40, expressions=4, shapes=3):
    return HeadTemplate(
        parents=PARENTS,
        template=torch.randn(vertices, 3) * 0.1,
        shape_dirs=torch.randn(vertices, 3, shapes) * 0.01,
        expr_dirs=torch.randn(vertices, 3, expressions) * 0.01,
        pose_dirs=torch.randn(vertices, 3, 36) * 0.01,
        joint_regressor=torch.softmax(torch.randn(5, vertices), -1),
        weights=torch.softmax(4 * torch.randn(vertices, 5), -1),
    )


def random_pose(template, angle=0.3):
    rotations = matrix_from_axis_angle(angle * torch.randn(5, 3))
    return template.pose(rotations, torch.randn(4), torch.randn(3))


def test_weight_norm_against_torch():
    ours = WeightNormLinear(7, 5)
    theirs = nn.utils.parametrizations.weight_norm(nn.Linear(7, 5))
    names = {"bias": "bias", "parametrizations.weight.original0": "weight_g",
             "parametrizations.weight.original1": "weight_v"}  # fmt: skip
    theirs.load_state_dict({k: ours.state_dict()[v] for k, v in names.items()})
    x, shared = torch.randn(3, 4), torch.randn(3)
    both = torch.cat([x, shared.expand(3, 3)], -1)
    assert torch.allclose(ours(x, shared), theirs(both), atol=1e-6)
    assert torch.allclose(ours(both), theirs(both), atol=1e-6)


def test_position_encoding_by_hand():
    encoded = encode_position(torch.tensor([0.1, 0.2, 0.3]), 2)
    assert len(encoded) == 15
    wanted = [0.1, 0.2, 0.3, *map(math.sin, (0.1, 0.2, 0.3)), *map(math.cos, (0.1, 0.2, 0.3))]
    assert torch.allclose(encoded[:9], torch.tensor(wanted))
    assert float(encoded[9]) == pytest.approx(math.sin(0.2))


def test_derivatives_of_points_against_autograd():
    network = Deformer(latent=2, generic=True, width=16)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    points, latent = torch.randn(5, 3), torch.randn(2)
    found = point_jacobian(lambda x: network(x, latent)[0], points)
    whole = torch.autograd.functional.jacobian(lambda x: network(x, latent)[0], points)
    assert torch.allclose(found, whole[range(5), :, range(5)], atol=1e-5)
    # A loss uses it, so networks must get gradients through it.
    found.square().sum().backward()
    assert network.get_submodule("lin0").weight_v.grad.abs().max() > 0


def test_small_inverses_and_rotations():
    matrices = torch.randn(20, 3, 3) + 2 * torch.eye(3)
    assert torch.allclose(inverse(matrices) @ matrices, torch.eye(3).expand(20, 3, 3), atol=1e-3)
    first, second = matrix_from_axis_angle(torch.randn(2, 20, 3))
    product = quaternion_product(quaternion_from_matrix(first), quaternion_from_matrix(second))
    wanted = quaternion_from_matrix(first @ second)
    assert torch.allclose((product * wanted).sum(-1).abs(), torch.ones(20), atol=1e-5)
    blended = 0.7 * first + 0.3 * matrix_from_axis_angle(0.2 * torch.randn(20, 3)) @ first
    left, _, right = torch.linalg.svd(blended)
    assert torch.allclose(nearest_rotation(blended), left @ right, atol=1e-4)


def test_vertices_are_warped_as_the_body_model_moves_them():
    template = random_template()
    canonical, posed = template.canonical_pose(torch.randn(4)), random_pose(template)
    rows = torch.arange(40)
    bases, start = template.vertex_bases(rows), template.posed_vertices(canonical)
    assert torch.equal(template.nearest(start, canonical), rows)
    moved, _ = warp(start, bases, template.shape_dirs, canonical, posed)
    assert torch.allclose(moved, template.posed_vertices(posed), atol=1e-5)


@pytest.mark.parametrize("build", [PerseBuilder, PointAvatarBuilder])
def test_untrained_points_may_move_as_the_body_model(build):
    """Vertices as the model's own skinning and bases place them."""
    small = {"rates": {}, "start_points": 40, "width": 64}
    slots = {"categories": ["hair"], "source": ["hair"], "code": 3} if build is PerseBuilder else {}
    template, unit = random_template(), torch.eye(3)
    apart = {}
    for follow in (False, True):
        avatar = build(**small, **slots, model_bases=follow).assemble(template)
        canonical = template.canonical_pose(avatar.mean_expression)
        with torch.no_grad():
            avatar.points.copy_(template.posed_vertices(canonical))
        posed = template.pose(matrix_from_axis_angle(0.3 * torch.randn(5, 3)), torch.randn(4))
        head = avatar.in_pose(posed, avatar.edits.as_photographed(), unit, unit[0] * 0)
        again = head.warped.warp(head.warped.points)
        assert torch.allclose(again, head.warped.posed, atol=1e-5), "rotations are of another warp"
        moved = head.warped.posed - template.posed_vertices(posed)
        apart[follow] = float(moved.detach().norm(dim=1).mean())
    # A bone that moves nothing has a ten thousandth's share of a point.
    assert apart[True] < 1e-3 < 0.03 < apart[False]


def test_bases_are_added_and_skinning_weights_multiplied():
    one, other = (
        Bases(torch.randn(6, 3, 4), torch.randn(6, 36, 3), torch.softmax(torch.randn(6, 6), -1))
        for _ in range(2)
    )
    even = Bases(torch.zeros(6, 3, 4), torch.zeros(6, 36, 3), torch.full((6, 6), 1 / 6))
    same, both = even.added_to(other), one.added_to(other)
    assert torch.allclose(same.weights, other.weights, atol=1e-3)
    assert torch.equal(same.expression, other.expression) and torch.equal(same.pose, other.pose)
    assert torch.allclose(both.expression, one.expression + other.expression)
    assert torch.allclose(both.weights.sum(-1), torch.ones(6))
    assert torch.allclose(
        both.weights[:, 0] / both.weights[:, 1],
        one.weights[:, 0] * other.weights[:, 0] / (one.weights[:, 1] * other.weights[:, 1]),
        rtol=2e-2,
    )


def test_the_still_bone_keeps_points_where_they_are():
    template = random_template()
    canonical, posed = template.canonical_pose(torch.randn(4)), random_pose(template)
    points = torch.randn(6, 3)
    weights = F.one_hot(torch.zeros(6, dtype=torch.long), 6).float()
    bases = Bases(torch.zeros(6, 3, 4), torch.zeros(6, 36, 3), weights)
    moved, turn = warp(points, bases, torch.zeros(6, 3, 3), canonical, posed)
    assert torch.allclose(moved, points, atol=1e-6)
    assert torch.allclose(turn, torch.eye(3).expand(6, 3, 3), atol=1e-6)


def test_the_first_surface_is_a_sphere():
    network = SurfaceNetwork(latent=5, width=256)
    points = 0.6 * F.normalize(torch.randn(200, 3), dim=-1)
    latent = torch.randn(5)
    sdf, far = network(points, latent).sdf, network(2 * points, latent).sdf
    assert sdf.abs().mean() < 0.15 and far.mean() > 0.4
    gradient = network.gradient(points, latent)
    assert F.cosine_similarity(gradient, points).mean() > 0.9


@pytest.mark.parametrize("others", [0.0, 0.5])
def test_codes_count_at_first_only_when_asked(others):
    torch.manual_seed(0)
    network = GaussianNetwork(latent=5, width=64, others=others)
    points = torch.randn(20, 3)
    first, second = (network(points, torch.randn(5)).color for _ in range(2))
    assert torch.allclose(first, second) == (others == 0)
    # Where encodings count too, points a fine period apart differ in more than their place. Both
    # networks draw the same weights.
    near = points + 1e-3
    change = (network(near, torch.zeros(5)).color - network(points, torch.zeros(5)).color).abs()
    torch.manual_seed(0)
    smooth = GaussianNetwork(latent=5, width=64)
    plain = (smooth(near, torch.zeros(5)).color - smooth(points, torch.zeros(5)).color).abs()
    assert (change.mean() > 3 * plain.mean()) == (others > 0)


@pytest.mark.parametrize("build", [PerseBuilder, PointAvatarBuilder])
def test_points_add_values_of_their_own(build):
    small = {"rates": {}, "start_points": 20, "width": 64, "own": True}
    slots = {"categories": ["hair"], "source": ["hair"], "code": 3} if build is PerseBuilder else {}
    avatar = build(**small, **slots).assemble(random_template())
    pose = Pose(torch.eye(3).repeat(5, 1, 1), torch.zeros(4), torch.zeros(3))
    before = avatar(pose)
    with torch.no_grad():
        avatar.own[:, 0] = 50
        if build is PerseBuilder:
            avatar.own[:, 3:6] = -50
    after = avatar(pose)
    assert torch.equal(after.points.opacities, before.points.opacities)
    if build is PerseBuilder:
        was, now = before.drawn.rgb, after.drawn.rgb
        sizes = after.drawn.points.scales
        assert torch.allclose(sizes, avatar.radius.expand_as(sizes))
        assert (before.drawn.points.scales > avatar.radius).all()
    else:
        was, now = before.drawn.surface.albedo, after.drawn.surface.albedo
    assert now[:, 0].min() > 0.99 and torch.equal(now[:, 1:], was[:, 1:])


def test_slots_by_hand():
    slots = Slots(categories=("hair", "hat", "nose"), source=("hair", "nose"), code=2)
    code = torch.tensor([5.0, 6.0])
    latent = slots.edited(torch.tensor(1), code).view(3, 5)
    assert torch.equal(latent[:, :3], torch.eye(3))
    assert torch.equal(latent[1, 3:], code)
    assert torch.equal(latent[0, 3:], slots.source[0]) and torch.equal(
        latent[2, 3:], slots.source[1]
    )
    plain = slots.edited(torch.tensor(-1), code).view(3, 5)
    assert torch.equal(plain[1, 3:], slots.zero[0])
    mixed = slots.compose({"hair": code, "hat": 2 * code}).view(3, 5)
    assert torch.equal(mixed[0, 3:], code) and torch.equal(mixed[1, 3:], 2 * code)
    assert slots.number("source") == -1
    with pytest.raises(UserError, match=r"attribute wings is unknown: choose of source, hair, hat"):
        slots.number("wings")
    assert Slots().size == 420 and len(PERSE_CATEGORIES) == 10
    assert PERSE_SOURCE == ("cloth", "eyebrows", "hair", "mouth", "nose", "skin")
    assert PEGASUS_CATEGORIES == (
        "identity", "ears", "eyebrows", "eyes", "hair", "hat", "mouth", "nose", "eyeglasses",
    )  # fmt: skip
    assert set(PEGASUS_CATEGORIES) - set(PEGASUS_SOURCE) == {"hat", "eyeglasses"}


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


def test_first_codes_are_spread_as_asked():
    codes = FeatureCodes(4, CodeNetwork(20, 3, 16), 20)
    alike = torch.rand(20) + 1e-2 * torch.rand(4, 20)
    codes.features.copy_(alike)
    before = torch.stack([codes(torch.tensor(i)) for i in range(4)])
    codes.spread(0.5)
    after = torch.stack([codes(torch.tensor(i)) for i in range(4)])
    assert before.std(0, correction=0).max() < 0.05
    torch.testing.assert_close(after.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    assert float(after.detach().std(0, correction=0).mean()) == pytest.approx(0.5, rel=1e-3)
    # Directions from the mean are unchanged.
    offsets = before - before.mean(0)
    torch.testing.assert_close(after / after.norm(), offsets / offsets.norm(), atol=1e-3, rtol=0)
    # A single edit, or edits with equal features, cannot be spread.
    for alike in (FeatureCodes(n, CodeNetwork(20, 3, 16), 20) for n in (1, 4)):
        weights = [p.clone() for p in alike.parameters()]
        alike.spread(0.5)
        assert all(torch.equal(*pair) for pair in zip(weights, alike.parameters(), strict=True))


def test_additions_change_nothing_until_trained():
    network = Two()
    x = torch.randn(3, 6)
    before = network(x)
    attach_lora(network, {"layers.0": "first", "layers.1": "second"})
    assert torch.equal(network(x), before)
    # The second layer has fewer outputs than the rank, which sets its shape.
    assert network.first.down.weight.shape == (4, 6) and network.second.down.weight.shape == (5, 8)
    for pair in (network.first, network.second):
        assert isinstance(pair, LoraPair)
        nn.init.normal_(pair.up.weight)
    full = network(x)
    set_strength(network, 0.0)
    assert torch.equal(network(x), before) and not torch.allclose(full, before)
    train_lora_only(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {f"{n}.{part}.weight" for n in ("first", "second") for part in ("down", "up")}


@pytest.mark.parametrize("start", ["template", "sphere"])
def test_first_points_and_their_radius(start):
    template = random_template(vertices=400)
    avatar = PerseBuilder(
        rates={}, start=start, start_points=200, width=64, features=8,
        categories=("hat",), source=(), code=2, deformer_width=16,
    ).assemble(template)  # fmt: skip
    assert avatar.size() == {"gaussians": 200}
    assert float(avatar.radius) == pytest.approx(0.15 * 0.75)
    if start == "sphere":
        assert torch.allclose(avatar.points.norm(dim=1), torch.full((200,), 0.5))
    else:
        vertices = template.posed_vertices(template.canonical_pose(torch.zeros(4)))
        points = avatar.points.detach()
        assert (points[:, None] == vertices).all(-1).any(1).all()
        assert len(points.unique(dim=0)) == 200


def test_a_body_of_many_joints_is_refused(body):
    with pytest.raises(UserError, match=r"has 5 joints .* the one given has 55"):
        PointAvatarBuilder(rates={}).build(body, body.zero_identity())


def test_the_stand_in_tells_edits_apart():
    encoder = LocalEncoder(size=64)
    image = torch.rand(3, 20, 30)
    first = encoder(image, "A person with red hair")
    assert first.shape == (64,)
    assert torch.allclose(encoder(image, "a person with hair RED"), first, atol=1e-6)
    others = [encoder(1 - image, "A person with red hair"), encoder(image, "A person with a hat")]
    assert (others[0][:32] != first[:32]).all() and torch.equal(others[0][32:], first[32:])
    assert torch.equal(others[1][:32], first[:32]) and (others[1][32:] != first[32:]).all()


def test_clip_needs_its_folder(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"no CLIP there; .* or use encoder=local"):
        ClipEncoder(tmp_path)


def test_wrong_settings_are_named():
    with pytest.raises(UserError, match=r"avatar.start=cube is unknown: choose template, sphere"):
        PointAvatarBuilder(rates={}, start="cube")
    with pytest.raises(UserError, match=r"avatar.codes=dice is unknown"):
        PerseBuilder(rates={}, codes="dice")
    with pytest.raises(UserError, match=r"width=32: .* more than its 39 inputs"):
        SurfaceNetwork(width=32)


def test_a_source_category_without_a_slot_is_refused():
    with pytest.raises(UserError, match="source category tail: choose of hair, nose"):
        Slots(categories=("hair", "nose"), source=("hair", "tail"))
