"""LHM's networks equal the public code's, and have invariants for any weights."""

import pytest
import torch
from lhm_cases import assert_close, loaded

from persona.modules.lhm.decoder import GaussianDecoder, PointEmbedding, scale_bound
from persona.modules.lhm.network import LhmNetwork
from persona.modules.lhm.resize import head_input, sapiens_input
from persona.modules.lhm.transformer import BodyHeadTransformer, MultimodalBlock
from persona.modules.lhm.vit import FusedEncoder, VisionTransformer

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_point_embedding_parity(lhm_case):
    case = lhm_case("point_embed")
    embedding = loaded(PointEmbedding(case.about["dim"]), case.weights)
    assert_close(embedding.fourier(case.given["points"]), case.wanted["fourier"])
    assert_close(embedding(case.given["points"]), case.wanted["embedding"])


def encoder_of(about: dict) -> FusedEncoder:
    side = about["pos_img_size"] // about["patch"]
    model = VisionTransformer(
        dim=about["embed_dim"], depth=about["depth"], heads=about["heads"],
        patch_px=about["patch"], table=(side, side), registers=about["registers"],
    )  # fmt: skip
    return FusedEncoder(model, about["layer_idx"], about["feat_dim"])


def test_head_encoder_parity(lhm_case):
    case = lhm_case("dino_fusion")
    encoder = loaded(encoder_of(case.about), case.weights)
    image = head_input(case.given["image"], case.about["resolution"])
    assert_close(image, case.wanted["preprocessed"])
    side = case.about["resolution"] // case.about["patch"]
    assert_close(encoder.model.positions(side, side), case.wanted["pos_embed_interpolated"])
    for index, tokens in enumerate(encoder.model(image, encoder.layers)):
        assert_close(tokens, case.wanted[f"feat{index}"])
    assert_close(encoder(image), case.wanted["tokens"])


def test_sapiens_input_parity(lhm_case):
    case = lhm_case("sapiens_preprocess")
    for name, side in case.about["out_resolution"].items():
        assert_close(sapiens_input(case.given[name], side), case.wanted[name])


@pytest.mark.parametrize("name", ["mm_block_mid", "mm_block_last"])
def test_block_parity(lhm_case, name):
    case = lhm_case(name)
    keep = not case.about["context_pre_only"]
    block = loaded(MultimodalBlock(case.about["dim"], case.about["heads"], keep), case.weights)
    normed, parts = block.norm1(case.given["hidden"], case.given["temb"])
    assert_close(normed, case.wanted["norm1_x"])
    for part, key in zip(parts, ("gate_msa", "shift_mlp", "scale_mlp", "gate_mlp"), strict=True):
        assert_close(part[:, 0], case.wanted[key])
    x, context = block(case.given["hidden"], case.given["context"], case.given["temb"])
    assert_close(x, case.wanted["hidden"])
    if keep:
        assert_close(context, case.wanted["context"])
    else:
        assert context is None


def transformer_of(about: dict) -> BodyHeadTransformer:
    return BodyHeadTransformer(
        dim=about["dim"], heads=about["heads"], layers=about["layers"],
        context_dim=about["cond_dim"], body_tokens=about["body_tokens"],
    )  # fmt: skip


def test_transformer_parity(lhm_case):
    case = lhm_case("bh_transformer")
    about, given, wanted = case.about, case.given, case.wanted
    network = loaded(transformer_of(about), case.weights)
    projected = network.linear_cond_proj(given["cond"])
    assert_close(projected, wanted["cond_proj"])
    body, head = projected[:, : about["body_tokens"]], projected[:, about["body_tokens"] :]
    x = given["x"]
    for index, layer in enumerate(network.layers):
        x, body, head = network.run(layer, x, body, head, given["temb"])
        assert_close(x, wanted[f"x_after_{index}"])
        if body is not None:
            assert_close(torch.cat((body, head), 1), wanted[f"cond_after_{index}"])
    assert_close(network(given["x"], given["cond"], given["temb"]), wanted["x"])


def test_recomputing_layers_changes_no_gradient(lhm_case):
    case = lhm_case("bh_transformer")
    network = loaded(transformer_of(case.about), case.weights).train()
    grads = []
    with torch.enable_grad():
        for network.recompute in (False, True):
            x = case.given["x"].clone().requires_grad_()
            network(x, case.given["cond"], case.given["temb"]).square().sum().backward()
            grads.append(x.grad)
    assert torch.equal(*grads) and (grads[0] != 0).any()


def test_decoder_parity(lhm_case):
    case = lhm_case("gs_decoder")
    features, wanted = case.given["features"], case.wanted
    hidden = len(case.weights["mlp_net.layers.0.bias"])
    decoder = loaded(GaussianDecoder(features.shape[1], hidden), case.weights)
    assert_close(decoder.mlp_net(features), wanted["mlp"])
    for name, value in decoder.raw(features).items():
        assert_close(value, wanted[f"raw_{name}"])
    upper = case.given["is_upper_body"]
    for step, bound in case.about["clip_by_step"].items():
        assert scale_bound(int(step)) == pytest.approx(bound)
        out = decoder(features, upper, int(step))
        assert_close(out.scales, wanted[f"scaling_step{step}"])
    out = decoder(features, upper)
    assert_close(out.scales, wanted["scaling_step10000000"])
    assert_close(out.rgb, wanted["shs"][:, 0])
    assert_close(out.offset, wanted["offset_xyz"])
    assert_close(out.opacity, wanted["opacity"][:, 0])
    assert_close(out.quaternions, wanted["rotation"])


def test_fresh_heads_parity(lhm_case):
    case = lhm_case("gs_decoder_init")
    state = GaussianDecoder(case.weights["gs_net.out_layers.xyz.weight"].shape[1], 8).state_dict()
    for key, value in case.weights.items():
        assert torch.allclose(state[key], value, atol=1e-6), key


def network_of(about: dict, head_dim: int) -> LhmNetwork:
    """The network of a reference case, with a small encoder that is not used."""
    dim = about["transformer_dim"]
    return LhmNetwork(
        encoder=FusedEncoder(VisionTransformer(dim=8, depth=1, heads=1), (0,), head_dim),
        transformer=BodyHeadTransformer(
            dim=dim, heads=about["transformer_heads"], layers=about["transformer_layers"],
            context_dim=about["fine_encoder_feat_dim"], body_tokens=about["body_tokens"],
        ),
        dim=dim, context_dim=about["fine_encoder_feat_dim"],
        hidden=about["gs_mlp_network_config"]["n_neurons"],
    )  # fmt: skip


def test_merge_parity(lhm_case):
    case, whole = lhm_case("encode_merge"), lhm_case("end_to_end")
    network = network_of(whole.about, case.given["head_tokens"].shape[-1])
    loaded(network.motion_embed_mlp, case.under("motion_embed_mlp."))
    merged, condition = network.merge(case.given["body_tokens"], case.given["head_tokens"])
    assert_close(merged, case.wanted["merged"])
    assert_close(condition, case.wanted["temb"])


def test_points_may_come_in_any_order(lhm_case):
    """Attention ignores the order of points inside body and head."""
    case = lhm_case("bh_transformer")
    network = loaded(transformer_of(case.about), case.weights)
    first = case.about["n_body_points"]
    order = torch.cat(
        (torch.randperm(first), first + torch.randperm(len(case.given["x"][0]) - first))
    )
    plain = network(case.given["x"], case.given["cond"], case.given["temb"])
    mixed = network(case.given["x"][:, order], case.given["cond"], case.given["temb"])
    assert_close(mixed, plain[:, order])
