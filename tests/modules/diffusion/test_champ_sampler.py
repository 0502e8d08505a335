"""Champ's complete generator and its schedule equal the public code's."""

import pytest
import torch

pytest.importorskip("diffusers")
from conftest import assert_agree
from diffusers import AutoencoderKL, DDIMScheduler
from test_champ_networks import motion_arguments, two_dimensional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks import champ_sampler
from persona.modules.diffusion.networks.champ_sampler import (
    DDIM_CHAMP,
    ChampOptions,
    ChampSampler,
)
from persona.modules.diffusion.networks.champ_unets import DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder, executed_weights
from persona.modules.strict_state import load_strictly, split_prefixes

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


def options_of(call: dict) -> ChampOptions:
    return ChampOptions(
        window=call["context_frames"],
        overlap=call["context_overlap"],
        steps=call["num_inference_steps"],
        guidance=call["guidance_scale"],
        encode_chunk=2,
    )


def test_conditions_of_champ_parity(parity, sampler):
    case = parity("champ/pipeline")
    reference, maps = inputs(case)
    with torch.no_grad():
        assert_agree(sampler.context(reference), case.wanted["clip_context_cfg"][1:])
        first = {kind: pictures[:4] for kind, pictures in maps.items()}
        guidance = sampler.guide(first, 3, reference.device)
        assert_agree(guidance, case.wanted["first_window_guidance_fea"])


@pytest.mark.parametrize("half_bank", [False, True])
def test_champ_parity(parity, sampler, monkeypatch, half_bank):
    """With the bank in full precision, and in half precision as in the public code."""
    case = parity("champ/pipeline")
    assert case.about["scheduler"] == DDIM_CHAMP
    suffix = "_bank_fp16" if half_bank else ""
    number, original, read = 0, DDIMScheduler.step, sampler.reference_unet.forward

    def step(self, guided, timestep, latents, **options):
        nonlocal number
        if not half_bank:
            assert_agree(guided, case.wanted[f"guided_prediction_{number}"])
        if number == 0:
            assert_agree(latents, case.wanted["initial_latents"])
        out = original(self, guided, timestep, latents, **options)
        name = f"latents_after_step_{number}{suffix}"
        if name in case.wanted:
            assert_agree(out[0], case.wanted[name], 2e-5)
        number += 1
        return out

    def read_in_half(latents, context):
        given = case.wanted["ref_latents_cfg"][1:]
        assert_agree(latents, given)
        bank = read(latents, context)
        return {k: v.half() for k, v in bank.items()} if half_bank else bank

    monkeypatch.setattr(champ_sampler.DDIMScheduler, "step", step)
    monkeypatch.setattr(sampler.reference_unet, "forward", read_in_half)
    call = case.about["call"]
    seed = int(call["generator"].split("(")[-1].rstrip(")"))
    generator = torch.Generator("cpu").manual_seed(seed)
    frames = sampler(*inputs(case), options_of(call), generator=generator)
    assert number == call["num_inference_steps"]
    assert_agree(frames, case.wanted[f"videos{suffix}"][0].movedim(1, 0), 2e-5)


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
