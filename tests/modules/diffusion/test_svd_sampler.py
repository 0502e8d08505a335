"""Complete generators from Stable Video Diffusion's parts equal the public code's."""

import pytest
import torch

pytest.importorskip("diffusers")
from conftest import assert_agree
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.modules.diffusion.networks import svd_sampler
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.face_refinement import FaceRefinement, rate_at
from persona.modules.diffusion.networks.placement import dtype_of
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.svd_sampler import (
    EULER_SVD,
    SvdOptions,
    SvdSampler,
    towards,
)
from persona.modules.strict_state import load_strictly, split_prefixes


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
    """Returns frames; compares each step with the public code's, and continues from its latents.

    A step subtracts numbers as large as its input latents, 700 times the noise at first, so the
    bound is 1e-5 of those: float32 leaves no more precision to the difference.
    """
    number = 0
    original = EulerDiscreteScheduler.step

    def step(self, guided, timestep, latents, **options):
        nonlocal number
        out, clean = original(self, guided, timestep, latents, **options)
        theirs = case.wanted[f"latents_after_step_{number}"]
        assert_agree(guided, case.wanted[f"guided_prediction_{number}"])
        assert (out - theirs).abs().max() <= 1e-5 * latents.abs().max()
        assert (out - theirs).abs().mean() <= 1e-5 * theirs.abs().max()
        number += 1
        return theirs, clean

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
    drawings = case.given["pose_small_uint8"].movedim(-1, 1)
    frames = run(sampler, case, drawings, monkeypatch, face)
    assert_agree(frames, case.wanted["frames"])


def test_drawings_as_bytes_are_those_as_floats(parity):
    sampler = make_sampler(parity, identity=False)
    case = parity("stable_animator/pipeline")
    reference = case.given["image_uint8"].movedim(-1, 0) / 255
    drawings = case.given["pose_small_uint8"].movedim(-1, 1)[:4]
    drawings = drawings.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert drawings.dtype == torch.uint8 and len(drawings.unique()) > 2
    options = SvdOptions(tile=4, overlap=1, steps=1, decode_chunk=4)
    one, other = (
        sampler(reference, shown, options, generator=torch.Generator().manual_seed(0))
        for shown in (drawings, drawings / 127.5 - 1)
    )
    assert torch.equal(one, other)
    black = sampler(reference, drawings * 0, options, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(one, black), "drawings are not read"


def test_face_refinement_parity(parity):
    """One step with the clean clip moved towards a face, and one without."""
    case = parity("stable_animator/hjb_step")
    config = case.about["config"]
    scheduler = EulerDiscreteScheduler(**EULER_SVD)
    scheduler.set_timesteps(config["num_inference_steps"])
    number = config["step_index"]
    assert rate_at(number, config["num_inference_steps"]) == config["learning_rate"]
    timestep, latents = scheduler.timesteps[number], case.given["latents"]
    scheduler.scale_model_input(latents, timestep)
    velocity = case.given["model_output"]
    plain, clean = scheduler.step(velocity, timestep, latents, return_dict=False)
    assert_agree(plain, case.wanted["prev_sample_without"])
    assert_agree(clean, case.wanted["pred_original_sample_without"])
    sampler = make_sampler(parity, identity=False)
    project = torch.nn.Linear(147, 16)
    load_strictly(project, {k.removeprefix("proj."): v for k, v in case.weights.items()}, "face")

    def identity(faces):
        return project(torch.nn.functional.avg_pool2d(faces, 16).flatten(1))

    top, bottom, left, right = case.given["boxes_ymin_ymax_xmin_xmax"].unbind(1)
    refine = FaceRefinement(
        sampler.decode_chunk, identity, case.given["reference_embedding"],
        torch.stack((top, bottom, left, right), 1), steps=20,
        iterations=config["num_optimization_iter"], chunk=config["decode_chunk_size"],
    )  # fmt: skip
    rate = rate_at(number, config["num_inference_steps"])
    moved = refine(clean, rate)
    stepped = towards(latents, moved, scheduler.sigmas[number : number + 2])
    theirs = case.wanted["pred_original_sample"]
    # Adam follows the gradient's sign, so elements whose gradient is nearly 0 may differ.
    close = (moved - theirs).abs() <= 1e-3
    assert close.float().mean() > 0.97 and (moved - theirs).abs().max() <= 6 * rate
    assert (moved - clean).abs().mean() > 0.5 * rate
    assert_agree(torch.where(close, stepped, 0), torch.where(close, case.wanted["prev_sample"], 0))


def test_latents_and_schedule_are_exact_whatever_the_networks_compute_in(parity, monkeypatch):
    sampler, case = make_sampler(parity, identity=False), parity("mimicmotion/pipeline")
    for network in sampler.networks(torch.bfloat16):
        assert dtype_of(network) in (torch.bfloat16, torch.float32)
    assert dtype_of(sampler.unet) == dtype_of(sampler.vae.decoder) == torch.bfloat16
    assert dtype_of(sampler.vae.encoder) == torch.float32
    seen, original = [], EulerDiscreteScheduler.step

    def step(self, guided, timestep, latents, **options):
        seen.append((guided, latents))
        return original(self, guided, timestep, latents, **options)

    monkeypatch.setattr(svd_sampler.EulerDiscreteScheduler, "step", step)
    reference = case.given["image_uint8"].movedim(-1, 0) / 255
    drawings = case.given["pose_small"][:4].repeat_interleave(4, 2).repeat_interleave(4, 3)
    options = SvdOptions(tile=4, overlap=1, steps=2, decode_chunk=4)
    frames = sampler(reference, drawings, options, generator=torch.Generator().manual_seed(0))
    assert frames.dtype == torch.float32 and frames.isfinite().all()
    assert {tensor.dtype for pair in seen for tensor in pair} == {torch.float32}
    # Latents have more digits than half precision can hold.
    _, latents = seen[1]
    assert (latents != latents.bfloat16().float()).float().mean() > 0.9


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
