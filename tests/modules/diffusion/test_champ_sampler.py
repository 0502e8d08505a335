"""Champ's whole generator and its schedule against the public code."""

import pytest
import torch

pytest.importorskip("diffusers")
from conftest import assert_agree
from diffusers import AutoencoderKL, DDIMScheduler
from test_champ_networks import motion_arguments, two_dimensional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks.champ_sampler import (
    DDIM_CHAMP,
    ChampOptions,
    ChampSampler,
)
from persona.modules.diffusion.networks.champ_unets import DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.checkpoint import load_strictly, split_prefixes
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder, executed_weights

KINDS = ("depth", "normal", "semantic_map", "dwpose")


@pytest.fixture(scope="module")
def sampler(parity):
    case, unets = parity("champ/pipeline"), parity("champ/unets").about
    reference = ReferenceUNet(two_dimensional(unets["reference_config"])).eval()
    motion = motion_arguments(unets["unet_additional_kwargs"]["motion_module_kwargs"])
    denoising = DenoisingUNet(two_dimensional(unets["denoising_config"]), motion).eval()
    prefixes = ("reference_unet.", "denoising_unet.")
    for network, state in zip(
        (reference.unet, denoising.unet),
        split_prefixes(parity("champ/unets").weights, prefixes, "unets"), strict=True,
    ):  # fmt: skip
        load_strictly(network, state, "unets")
    guides = parity("champ/guidance_encoders")
    encoders = {kind: GuidanceEncoder(**guides.about["config"]).eval() for kind in KINDS}
    prefixes = tuple(f"guidance_encoder_{kind}." for kind in KINDS)
    for kind, state in zip(KINDS, split_prefixes(guides.weights, prefixes, "guides"), strict=True):
        load_strictly(encoders[kind], executed_weights(encoders[kind], state), kind)
    vae = AutoencoderKL(**case.about["vae_config"]).eval()
    config = CLIPVisionConfig(**case.about["image_encoder_config"])
    clip = CLIPVisionModelWithProjection(config).eval()
    vae_weights, clip_weights = split_prefixes(case.weights, ("vae.", "image_encoder."), "case")
    load_strictly(vae, vae_weights, "vae")
    load_strictly(clip, clip_weights, "image_encoder")
    return ChampSampler(reference, denoising, encoders, vae, clip)


def inputs(case):
    maps = {kind: case.given[f"{kind}_uint8"].movedim(-1, 1) / 255 for kind in KINDS}
    return case.given["ref_image_uint8"].movedim(-1, 0) / 255, maps


def test_champ_parity(parity, sampler):
    case = parity("champ/pipeline")
    assert case.about["scheduler"] == DDIM_CHAMP
    call = case.about["call"]
    options = ChampOptions(
        window=call["context_frames"],
        overlap=call["context_overlap"],
        steps=call["num_inference_steps"],
        guidance=call["guidance_scale"],
        encode_chunk=2,
    )
    reference, maps = inputs(case)
    with torch.no_grad():
        assert_agree(sampler.context(reference), case.wanted["clip_context_cfg"][1:])
        first = {kind: pictures[: options.window] for kind, pictures in maps.items()}
        guidance = sampler.guide(first, 3)
        assert_agree(guidance, case.wanted["first_window_guidance_fea"])
    seed = int(call["generator"].split("(")[-1].rstrip(")"))
    frames = sampler(reference, maps, options, generator=torch.Generator("cpu").manual_seed(seed))
    assert_agree(frames, case.wanted["videos"][0].movedim(1, 0), 2e-5)


def test_ddim_parity(parity):
    case = parity("champ/scheduler")
    for name in [name for name in case.given if name.startswith("latents_")]:
        count = name.removeprefix("latents_")
        scheduler = DDIMScheduler(**DDIM_CHAMP)
        scheduler.set_timesteps(int(count))
        assert torch.equal(scheduler.timesteps, case.wanted[f"timesteps_{count}"].long())
        assert_agree(scheduler.alphas_cumprod, case.wanted["alphas_cumprod"])
        latents = case.given[name]
        for number, timestep in enumerate(scheduler.timesteps[[0, 1, -1]]):
            velocity = case.given[f"model_output_{count}_{number}"]
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            assert_agree(latents, case.wanted[f"prev_{count}_{number}"])


def test_maps_of_other_kinds_are_refused(parity, sampler):
    reference, maps = inputs(parity("champ/pipeline"))
    del maps["depth"]
    with pytest.raises(UserError, match="needs maps of"):
        sampler(reference, maps, ChampOptions(), generator=torch.Generator())
