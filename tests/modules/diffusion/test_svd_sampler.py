"""Whole generators of Stable Video Diffusion's parts against the public code."""

import pytest
import torch

pytest.importorskip("diffusers")
from conftest import assert_agree
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.modules.diffusion.networks import svd_sampler
from persona.modules.diffusion.networks.checkpoint import load_strictly, split_prefixes
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.svd_sampler import EULER_SVD, SvdOptions, SvdSampler


def make_sampler(parity, *, identity: bool) -> SvdSampler:
    about = parity("mimicmotion/pipeline").about
    assert all(about["scheduler"].get(key) == value for key, value in EULER_SVD.items())
    unet = make_unet(about["unet_config"], identity=identity).eval()
    unet_weights = parity("mimicmotion/unet").weights
    if identity:
        unet_weights |= parity("stable_animator/unet").weights
    load_strictly(unet.unet, unet_weights, "unet")
    pose_net = PoseNet(**about["pose_net_config"])
    load_strictly(pose_net, parity("mimicmotion/pose_net").weights, "pose_net")
    vae = AutoencoderKLTemporalDecoder(**about["vae_config"]).eval()
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**about["image_encoder_config"])).eval()
    weights = parity("mimicmotion/pipeline").weights
    vae_weights, clip_weights = split_prefixes(weights, ("vae.", "image_encoder."), "pipeline")
    load_strictly(vae, vae_weights, "vae")
    load_strictly(clip, clip_weights, "image_encoder")
    face_encoder = None
    if identity:
        case = parity("stable_animator/face_encoder")
        face_encoder = FaceEncoder(**case.about["config"])
        load_strictly(face_encoder, case.weights, "face_encoder")
    return SvdSampler(unet, pose_net, vae, clip, face_encoder)


def options_of(call: dict) -> SvdOptions:
    return SvdOptions(
        tile=call["tile_size"],
        overlap=call["tile_overlap"],
        steps=call["num_inference_steps"],
        guidance=(call["min_guidance_scale"], call["max_guidance_scale"]),
        noise=call["noise_aug_strength"],
        fps=call["fps"],
        motion_bucket=int(call["motion_bucket_id"]),
        decode_chunk=call["decode_chunk_size"],
    )


def run(sampler, case, drawings, monkeypatch, face=None):
    """Frames; each step is held against the public code's and goes on from its latents.

    A step takes the difference of numbers as large as the latents before it, 700 times the noise at
    first: 1e-5 of those is the precision that float32 leaves to what remains.
    """
    number = 0
    original = EulerDiscreteScheduler.step

    def step(self, guided, timestep, latents, **options):
        nonlocal number
        out = original(self, guided, timestep, latents, **options)[0]
        theirs = case.wanted[f"latents_after_step_{number}"]
        assert_agree(guided, case.wanted[f"guided_prediction_{number}"])
        assert (out - theirs).abs().max() <= 1e-5 * latents.abs().max()
        assert (out - theirs).abs().mean() <= 1e-5 * theirs.abs().max()
        number += 1
        return (theirs,)

    monkeypatch.setattr(svd_sampler.EulerDiscreteScheduler, "step", step)
    reference = case.given["image_uint8"].movedim(-1, 0) / 255
    call = case.about["call"]
    seed = int(call["generator"].split("(")[-1].rstrip(")"))
    generator = torch.Generator("cpu").manual_seed(seed)
    big = drawings.repeat_interleave(4, 2).repeat_interleave(4, 3)
    frames = sampler(reference, big, options_of(call), generator=generator, face=face)
    assert number == call["num_inference_steps"]
    return frames


def test_mimicmotion_parity(parity, monkeypatch):
    case = parity("mimicmotion/pipeline")
    sampler = make_sampler(parity, identity=False)
    reference = case.given["image_uint8"].movedim(-1, 0) / 255
    with torch.no_grad():
        assert_agree(sampler.context(reference), case.wanted["image_embeddings"][1:])
    frames = run(sampler, case, case.given["pose_small"], monkeypatch)
    assert_agree(frames, case.wanted["frames"][0])


def test_stable_animator_parity(parity, monkeypatch):
    case = parity("stable_animator/pipeline")
    sampler = make_sampler(parity, identity=True)
    reference = case.given["image_uint8"].movedim(-1, 0) / 255
    face = case.given["id_embedding"][None]
    with torch.no_grad():
        assert_agree(sampler.context(reference, face), case.wanted["context_cond"])
    drawings = case.given["pose_small_uint8"].movedim(-1, 1) / 127.5 - 1
    frames = run(sampler, case, drawings, monkeypatch, face)
    assert_agree(frames, case.wanted["frames"])


def test_scheduler_parity(parity):
    case = parity("mimicmotion/scheduler")
    for name in [name for name in case.given if name.startswith("latents_")]:
        count = name.removeprefix("latents_")
        scheduler = EulerDiscreteScheduler(**EULER_SVD)
        scheduler.set_timesteps(int(count))
        assert_agree(scheduler.timesteps, case.wanted[f"timesteps_{count}"])
        assert_agree(scheduler.sigmas, case.wanted[f"sigmas_{count}"])
        latents = case.given[name]
        for number, timestep in enumerate(scheduler.timesteps[:3]):
            scaled = scheduler.scale_model_input(latents, timestep)
            assert_agree(scaled, case.wanted[f"scaled_{count}_{number}"])
            velocity = case.given[f"model_output_{count}_{number}"]
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            assert_agree(latents, case.wanted[f"prev_{count}_{number}"])
