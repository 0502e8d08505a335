"""Networks, warp, latents, LoRA and complete heads equal the public code's."""

import pytest
import torch
from parity_cases import (
    NETWORK,
    NORMAL,
    WARP,
    assert_close,
    in_one_frame,
    published_keys,
    read_case,
)

from persona.errors import UserError
from persona.modules.head.builder import (
    PegasusBuilder,
    PerseBuilder,
    PointAvatarBuilder,
    add_lora,
)
from persona.modules.head.canonical import GaussianNetwork, PoseNetwork
from persona.modules.head.deformer import Bases, Deformer
from persona.modules.head.edits import Who
from persona.modules.head.latent import CodeNetwork, Slots
from persona.modules.head.layers import point_jacobian
from persona.modules.head.lora import lora_state, set_strength
from persona.modules.head.published import (
    FLAME,
    FLAME_ARRAYS,
    flame_template,
    published_networks,
    read_published,
    read_tables,
)
from persona.modules.head.template import HeadTemplate, warp
from persona.modules.strict_state import load_strictly


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def assert_raw(ours, wanted, names):
    color, scale, rotation, opacity = (wanted[name] for name in names)
    assert_close(ours.color, color, NETWORK)
    assert_close(ours.scale, scale, NETWORK)
    assert_close(ours.rotation, rotation, NETWORK)
    assert_close(ours.opacity, opacity, NETWORK)


def test_canonical_gaussians_parity(shared_data):
    case = read_case(shared_data, "perse/canonical_mlp")
    latent = case.given["z"][0]
    network = GaussianNetwork(latent=len(latent), width=case.about["width"])
    load_strictly(network, case.weights, "fixture")
    raw = network(case.given["points"], latent)
    assert_raw(raw, case.wanted, ("color", "scales_head", "rotations_head", "opacity_head"))
    read = case.wanted["feature_vector"].split([3, 3, 4, 1], -1)
    for ours, theirs in zip(raw.misread().parts, read, strict=True):
        assert_close(ours, theirs, NETWORK)


def test_pose_network_parity(shared_data):
    case = read_case(shared_data, "perse/pose_mlp")
    latent = case.given["z"][0]
    network = PoseNetwork(latent=len(latent), width=case.about["dims"][0])
    load_strictly(network, case.weights, "fixture")
    raw = network(case.given["offset"], latent)
    assert_raw(raw, case.wanted, ("d_color", "d_scale", "d_rotation", "d_opacity"))


def test_deformer_parity(shared_data):
    case = read_case(shared_data, "perse/deformer")
    latent, points = case.given["z"][0], case.given["points"]
    network = Deformer(latent=len(latent), width=case.about["dims"][0])
    load_strictly(network, case.weights, "fixture")
    located, bases = network(points, latent)
    assert_close(located, case.wanted["x_fc"], NETWORK)
    assert_close(bases.expression, case.wanted["shapedirs"], NETWORK)
    assert_close(bases.pose, case.wanted["posedirs"], NETWORK)
    assert_close(bases.weights, case.wanted["lbs_weights"], NETWORK)


def test_warp_parity(shared_data):
    case = read_case(shared_data, "perse/flame_warp")
    given, wanted = case.given, case.wanted
    template = HeadTemplate(
        parents=case.about["parents"],
        template=given["file_v_template"],
        shape_dirs=given["file_shapedirs_shape100"],
        expr_dirs=given["file_shapedirs_expr50"],
        pose_dirs=given["file_posedirs"],
        joint_regressor=given["file_J_regressor"],
        weights=given["file_weights"],
        scale=float(case.about["factor"]),
    )
    canonical = template.canonical_pose(given["canonical_expression"][0])
    posed = template.pose(case.rotations, given["expression"][0], given["shape"][0])
    assert_close(canonical.bones, wanted["canonical_transformations"][0], NETWORK)
    assert_close(posed.bones, wanted["transformations"][0], NETWORK)
    assert_close(canonical.feature, wanted["canonical_pose_feature"][0], NETWORK)
    assert_close(posed.feature, wanted["pose_feature"][0], NETWORK)
    assert_close(template.posed_vertices(canonical), wanted["canonical_verts"], WARP)
    assert_close(template.posed_vertices(posed), wanted["verts"][0], WARP)
    vertices = template.nearest(given["x_fc"], canonical)
    assert torch.equal(vertices, wanted["nearest_vertex"])
    bases = Bases(given["E_shapedirs"], given["P_posedirs"], given["W"])
    moved, _ = warp(given["x_fc"], bases, template.shape_dirs[vertices], canonical, posed)
    assert_close(moved, wanted["x_d"], WARP)


def slots_of(case):
    categories = sorted(case.about["categories"], key=case.about["categories"].get)
    return {"categories": categories, "source": case.about["source_categories"]}


TABLES = ("zero_latent_codes.", "source_scene_latent_codes.")


def test_latents_parity(shared_data):
    case = read_case(shared_data, "perse/latent")
    slots = Slots(**slots_of(case), code=case.about["code_dim"])
    load_strictly(
        slots, {name: case.weights[f"{t}weight"] for name, t in zip(("zero", "source"), TABLES,
                                                                   strict=True)}, "fixture"
    )  # fmt: skip
    pair = torch.cat([case.given["clip_image_feature"], case.given["clip_text_feature"]], -1)
    weights = case.part("clip_regression_network.")
    width, features = weights["lin0.weight_v"].shape
    network = CodeNetwork(features, case.about["code_dim"], width)
    load_strictly(network, weights, "fixture")
    code = network(pair)
    assert_close(code, case.wanted["code"], NETWORK)
    for name in ("hat", "hair", "source"):
        slot = torch.tensor(slots.number(name))
        assert_close(slots.edited(slot, code[0]), case.wanted[f"z_{name}"][0], NETWORK)
        mixed = slots.compose({} if name == "source" else {name: code[0]})
        assert torch.equal(mixed, slots.edited(slot, code[0]))
    assert slots.size == case.about["z_dim"]


def models(case):
    """Weights of the model without those of the tables of codes."""
    return {k: v for k, v in case.weights.items() if not k.startswith(TABLES)}


def perse_head(case):
    weights = case.weights
    builder = PerseBuilder(
        rates={},
        width=case.part("geometry_network.")["lin0.weight_v"].shape[0],
        deformer_width=case.part("deformer_network.")["lin0.weight_v"].shape[0],
        pose_width=case.part("gaussian_deformer_network.")["lin0.weight_v"].shape[0],
        code_width=weights["clip_regression_network.lin0.weight_v"].shape[0],
        features=weights["clip_regression_network.lin0.weight_v"].shape[1],
        code=weights["zero_latent_codes.weight"].shape[1],
        # As in the released code: quaternions are not rotated, and no offset to the subject.
        turned=False, as_released=True, moves_canonical=False, start="sphere",
        **slots_of(case),
    )  # fmt: skip
    avatar = builder.assemble(flame_template(weights, shaped=True), edits=2)
    read_published(avatar, models(case), "fixture")
    read_tables(avatar, {k: v for k, v in case.weights.items() if k.startswith(TABLES)}, "fixture")
    pair = torch.cat([case.given["clip_image_feature"], case.given["clip_text_feature"]], -1)
    avatar.edits.codes.features[1] = pair[0]
    avatar.edits.describe(1, case.about["category"], case.given["shape"][0])
    avatar.radius.fill_(case.about["radius"])
    return avatar


def assert_gaussians(posed, wanted, radius, suffix=""):
    points = posed.drawn.points
    assert_close(points.means, wanted[f"xyz{suffix}"], WARP)
    assert_close(posed.drawn.rgb, wanted[f"color{suffix}"], NETWORK)
    assert_close(points.opacities[:, None], wanted[f"opacity{suffix}"], NETWORK)
    assert_close(points.quaternions, wanted[f"rotations{suffix}"], NETWORK)
    assert_close(points.scales, wanted[f"scales{suffix}"] + radius, NETWORK)


def test_perse_parity(shared_data):
    case = read_case(shared_data, "perse/end_to_end")
    avatar = perse_head(case)
    posed = in_one_frame(avatar, case, avatar.edits(torch.tensor(1)))
    assert_close(posed.who.latent, case.wanted["z"][0], NETWORK)
    assert_close(posed.warped.located, case.wanted["x_fc"], NETWORK)
    assert_gaussians(posed, case.wanted, case.about["radius"])
    assert_close(posed.drawn.points.scales, case.wanted["scales_given_to_rasteriser"], NETWORK)


def test_lora_parity(shared_data):
    base, case = (read_case(shared_data, f"perse/{name}") for name in ("end_to_end", "lora"))
    avatar = perse_head(base)
    add_lora(avatar)
    assert sorted(case.weights) == sorted(case.about["lora_keys"])
    ours = {
        f"{name}.{key}": value
        for name, network in published_networks(avatar).items()
        for key, value in lora_state(network).items()
    }
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in case.weights.items()}
    whole = models(base) | case.weights
    read_published(avatar, whole, "fixture")
    for strength in (0.0, 0.4, 1.0):
        set_strength(avatar, strength)
        who = avatar.edits(torch.tensor(1))
        assert_close(who.code, case.wanted[f"code_w{strength}"][0], NETWORK)
        posed = in_one_frame(avatar, base, who)
        assert_gaussians(posed, case.wanted, base.about["radius"], f"_w{strength}")


def point_head(case, builder):
    avatar = builder.assemble(flame_template(case.weights, shaped=builder.generic), edits=1)
    read_published(avatar, case.weights, "fixture")
    avatar.mean_expression.copy_(case.given["canonical_expression"][0])
    return avatar


@pytest.mark.parametrize("system", ["pointavatar", "pegasus"])
def test_points_parity(shared_data, system):
    case = read_case(shared_data, f"{system}/forward")
    given, wanted = case.given, case.wanted
    settings = {
        "rates": {}, "start": "sphere", "width": case.about["width"], "deformer_width": 32,
        "shading_width": case.part("rendering_network.")["lin0.weight_v"].shape[0],
    }  # fmt: skip
    latent = given["z"][0] if "z" in given else torch.zeros(0)
    if system == "pointavatar":
        builder = PointAvatarBuilder(**settings)
    else:
        # The latent has two slots of 2 + 10 numbers.
        slots = {"categories": ("hair", "hat"), "source": ("hair",), "code": 10}
        builder = PegasusBuilder(**settings, **slots)
    avatar = point_head(case, builder)
    who = avatar.edits.as_photographed()
    posed = in_one_frame(avatar, case, Who(latent, who.betas, who.code))
    drawn, warped = posed.drawn, posed.warped
    assert_close(warped.points, wanted["canonical_points_sc"], NETWORK)
    assert_close(warped.located, wanted["x_fc"], NETWORK)
    assert_close(posed.bases.pose, wanted["posedirs"], NETWORK)
    assert_close(posed.bases.expression, wanted["shapedirs"], NETWORK)
    assert_close(posed.bases.weights, wanted["lbs_weights"], NETWORK)
    assert_close(warped.posed, wanted["x_d"], WARP)
    jacobian = point_jacobian(warped.warp, warped.points)
    assert_close(jacobian, wanted["warp_jacobian"], WARP)
    raw = wanted["geometry_raw"]
    assert_close(drawn.surface.sdf, raw[:, 0], NETWORK)
    assert_close(drawn.surface.albedo, wanted["albedo"], NETWORK)
    if system == "pegasus":
        assert_close(drawn.surface.segment, raw[:, 4], NETWORK)
    assert_close(drawn.gradient, wanted["sdf_gradient"], NORMAL)
    assert_close(drawn.normals, wanted["deformed_normal"], NORMAL)
    assert_close(drawn.rgb, wanted["rgb"], NORMAL)


FULL_SIZE = {
    "pointavatar/keys": PointAvatarBuilder(rates={}, start="sphere"),
    "pegasus/keys": PegasusBuilder(rates={}, start="sphere"),
    "perse/keys_base": PerseBuilder(rates={}, start="sphere"),
    "perse/keys_lora": PerseBuilder(rates={}, start="sphere", lora=True),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_heads_have_the_published_keys_parity(shared_data, name):
    published, builder = published_keys(shared_data, name), FULL_SIZE[name]
    with torch.device("meta"):
        five = torch.ones(8, 5)
        template = HeadTemplate(
            parents=(-1, 0, 1, 1, 1), template=torch.ones(8, 3), weights=five,
            shape_dirs=torch.ones(8, 3, 100), expr_dirs=torch.ones(8, 3, 50),
            pose_dirs=torch.ones(8, 3, 36), joint_regressor=five.T,
        )  # fmt: skip
        avatar = builder.assemble(template)
    ours = {
        f"{name}.{key}": list(value.shape)
        for name, network in published_networks(avatar).items()
        for key, value in network.state_dict().items()
    } | {"pc.points": list(avatar.points.shape)}
    flame = {key for key in published if FLAME in key}
    assert {key.rpartition(".")[2] for key in flame} <= set(FLAME_ARRAYS)
    assert ours == {key: shape for key, shape in published.items() if key not in flame}


def test_checkpoints_are_read_strictly_parity(shared_data):
    case = read_case(shared_data, "perse/end_to_end")
    avatar, whole = perse_head(case), models(case)
    copy = {f"deformer_network.{k}": v for k, v in whole.items() if k.startswith(FLAME)}
    clip = {"clip_model.visual.conv1.weight": torch.zeros(1)}
    published = {f"module.{k}": v for k, v in (whole | copy | clip).items()}
    avatar.set_size({"gaussians": 3})
    read_published(avatar, published, "fixture")
    assert torch.equal(avatar.points, whole["pc.points"])
    for change, message in (
        ({"geometry_network.lin0.bias": None}, r"lin0.bias is missing"),
        ({"geometry_network.extra": torch.zeros(1)}, r"extra has no place"),
        ({"other_network.extra": torch.zeros(1)}, r"begins with none of"),
        ({"FLAMEServer.extra": torch.zeros(1)}, r"FLAMEServer.extra has no place"),
        ({"pc.points": None}, r"pc.points is missing"),
        ({"deformer_network.FLAMEServer.v_template": torch.zeros(50, 3)}, r"differ in v_template"),
    ):
        broken = {k: v for k, v in (whole | change).items() if v is not None}
        with pytest.raises(UserError, match=message):
            read_published(avatar, broken, "fixture")
    avatar.model_bases = True
    with pytest.raises(UserError, match=r"fixture: .* avatar.model_bases=false"):
        read_published(avatar, published, "fixture")
