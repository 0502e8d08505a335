"""Champ's networks equal the public code's."""

import pytest
import torch

pytest.importorskip("diffusers")
from conftest import assert_agree, shapes

from persona.modules.diffusion.networks.champ_unets import DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder, executed_weights
from persona.modules.diffusion.networks.motion_module import MotionModule
from persona.modules.strict_state import load_strictly, split_prefixes


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def motion_arguments(config: dict) -> dict:
    assert set(config["attention_block_types"]) == {"Temporal_Self"}
    assert config["temporal_position_encoding"] and config["temporal_attention_dim_div"] == 1
    return {
        "heads": config["num_attention_heads"],
        "blocks": config["num_transformer_block"],
        "attentions": len(config["attention_block_types"]),
        "max_frames": config["temporal_position_encoding_max_len"],
    }


def two_dimensional(config: dict) -> dict:
    """The public code's configuration with the names of diffusers' blocks."""
    config = dict(config)
    for key in ("down_block_types", "up_block_types"):
        config[key] = [name.replace("3D", "2D") for name in config[key]]
    config.pop("mid_block_type", None)
    return config


def test_motion_module_parity(parity):
    case = parity("champ/motion_module")
    config = case.about["config"]
    network = MotionModule(config["in_channels"], **motion_arguments(config))
    load_strictly(network, case.weights, "fixture")
    clips = case.given["hidden_states"]
    out = network(clips.movedim(2, 1).flatten(0, 1), clips.shape[2])
    out = out.unflatten(0, (len(clips), -1)).movedim(1, 2)
    assert_agree(out, case.wanted["hidden_states"])


def encode(case, weights, maps):
    encoder = GuidanceEncoder(**case.about["config"])
    load_strictly(encoder, executed_weights(encoder, weights), "fixture")
    return encoder(maps[0].movedim(1, 0)).movedim(0, 1)[None]


def test_deep_guidance_encoder_parity(parity):
    case = parity("champ/guidance_encoder_deep")
    out = encode(case, case.weights, case.given["condition"])
    assert_agree(out, case.wanted["embedding"])


def test_guidance_encoders_parity(parity):
    case = parity("champ/guidance_encoders")
    kinds = list(case.given)
    prefixes = tuple(f"guidance_encoder_{kind}." for kind in kinds)
    parts = split_prefixes(case.weights, prefixes, "fixture")
    outs = [encode(case, w, case.given[k]) for k, w in zip(kinds, parts, strict=True)]
    for kind, out in zip(kinds, outs, strict=True):
        assert_agree(out, case.wanted[kind])
    assert_agree(sum(outs), case.wanted["sum"])


def test_unets_parity(parity):
    case = parity("champ/unets")
    about, given, wanted = case.about, case.given, case.wanted
    reference = ReferenceUNet(two_dimensional(about["reference_config"])).eval()
    motion = motion_arguments(about["unet_additional_kwargs"]["motion_module_kwargs"])
    denoising = DenoisingUNet(two_dimensional(about["denoising_config"]), motion).eval()
    prefixes = ("reference_unet.", "denoising_unet.")
    reference_state, denoising_state = split_prefixes(case.weights, prefixes, "fixture")
    load_strictly(reference.unet, reference_state, "fixture")
    load_strictly(denoising.unet, denoising_state, "fixture")
    clip, guidance = given["clip_embed"], given["guidance_fea"]
    bank = reference(given["ref_latents"], clip)
    for number, (_, name) in enumerate(about["bank_pairs_reader_writer"]):
        assert_agree(bank[name], wanted[f"bank_{number}"])
    assert len(bank) == len(about["bank_pairs_reader_writer"])
    noisy, timestep = given["noisy_latents"], given["timestep"]

    def denoise(**options):
        return denoising(noisy, timestep, clip, **options)

    assert_agree(denoise(guidance=guidance, bank=bank), wanted["sample"])
    half = {name: tokens.half() for name, tokens in bank.items()}
    assert_agree(denoise(guidance=guidance, bank=half), wanted["sample_bank_fp16"])
    assert_agree(denoise(bank=bank), wanted["sample_no_guidance"])
    assert_agree(denoise(), wanted["sample_no_reference_no_guidance"])
    both = torch.cat([torch.zeros_like(clip), clip])
    doubled = denoising(
        torch.cat([noisy] * 2), timestep, both, guidance=guidance, bank=bank, blank=1
    )
    assert_agree(doubled, wanted["sample_cfg"])


def test_full_size_networks_have_the_published_keys_parity(published_shapes):
    with torch.device("meta"):
        reference, denoising, encoder = ReferenceUNet(), DenoisingUNet(), GuidanceEncoder()
    assert shapes(reference.unet) == published_shapes("champ_reference_unet.pth")
    both = published_shapes("champ_denoising_unet.pth") | published_shapes(
        "champ_motion_module.pth"
    )
    assert shapes(denoising.unet) == both
    for kind in ("depth", "normal", "semantic_map", "dwpose"):
        published = published_shapes(f"champ_guidance_encoder_{kind}.pth")
        whole = {key: torch.empty(shape, device="meta") for key, shape in published.items()}
        executed = executed_weights(encoder, whole)
        assert shapes(encoder) == {key: list(value.shape) for key, value in executed.items()}
        assert len(executed) < len(whole)
