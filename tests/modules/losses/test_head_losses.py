"""Losses of heads equal the public code's."""

import json

import pytest
import torch
from safetensors.torch import load_file

from persona.modules.head.deformer import Bases
from persona.modules.losses.functional import ssim_map
from persona.modules.losses.head_image import region_distance
from persona.modules.losses.head_regularizers import base_distances, eikonal
from persona.modules.losses.vgg_features import VggFeatures

BOUND = 1e-5


def case(shared_data, name):
    path = shared_data / "parity" / name / "loss"
    if not path.with_suffix(".json").is_file():
        pytest.skip(f"needs the reference data at {path}")
    tensors = load_file(path.with_suffix(".safetensors"))
    given = {k[3:]: v for k, v in tensors.items() if k.startswith("in/")}
    wanted = {k[4:]: float(v) for k, v in tensors.items() if k.startswith("out/")}
    return given, wanted, json.loads(path.with_suffix(".json").read_text())["loss_weights"]


def bases(given, prefix, vertices):
    """Predicted bases, and those of the body model with a still bone of weight 0 added."""
    weights = given[f"{prefix}flame_lbs_weights"][vertices]
    pose = given[f"{prefix}flame_posedirs"].unflatten(1, (-1, 3)).transpose(0, 1)
    model = Bases(
        given[f"{prefix}flame_shapedirs"][vertices][..., 100:], pose[vertices],
        torch.cat([torch.zeros(len(weights), 1), weights], 1),
    )  # fmt: skip
    names = (f"{prefix}{name}" for name in ("shapedirs", "posedirs", "lbs_weights"))
    return Bases(*(given[name] for name in names)), model


def images(flat, like):
    """Reshapes (1, pixels, c) or (1, h, w, c) to (c, h, w)."""
    height, width = like.shape[1:3]
    return flat.reshape(height, width, -1).permute(2, 0, 1)


def test_perse_loss_parity(shared_data):
    given, wanted, weights = case(shared_data, "perse")
    image = images(given["rgb_image"], given["rgb_image"])
    truth = images(given["rgb_gt"], given["rgb_image"])
    l1 = (image - truth).abs().mean()
    similar = 1 - ssim_map(image, truth, border="zero").mean()
    parts = base_distances(*bases(given, "", given["nearest_vertex"]), given["var_expression"][0])
    skinning, pose, expression = parts
    code = given["code"].square().mean()
    assert float(l1) == pytest.approx(wanted["rgb_loss"], rel=BOUND)
    assert float(weights["ssim"] * similar) == pytest.approx(wanted["ssim_loss"], rel=BOUND)
    pulled = weights["lbs"]
    assert float(0.1 * pulled * skinning) == pytest.approx(wanted["lbs_loss"], rel=BOUND)
    assert float(10 * pulled * pose) == pytest.approx(wanted["posedirs_loss"], rel=BOUND)
    assert float(10 * pulled * expression) == pytest.approx(wanted["shapedirs_loss"], rel=BOUND)
    small = weights["latent"] * code
    assert float(small) == pytest.approx(wanted["latent_regularization_loss"], rel=BOUND)
    total = l1 + weights["ssim"] * similar + small
    total = total + pulled * (0.1 * skinning + 10 * pose + 10 * expression)
    assert float(total) == pytest.approx(wanted["loss"], rel=BOUND)


@pytest.mark.parametrize("system", ["pointavatar", "pegasus"])
def test_points_loss_parity(shared_data, system):
    given, wanted, weights = case(shared_data, system)
    given = {k.removeprefix("pred_"): v for k, v in given.items()}
    image = images(given["rgb_image"], given["rgb_image"])
    mask = images(given["gt_object_mask"], given["rgb_image"])
    alpha = images(given["predicted_mask"], given["rgb_image"])
    parts = base_distances(*bases(given, "", given["index_batch"]), given["var_expression"][0])
    terms = {
        "rgb_loss": (image - images(given["gt_rgb"], given["rgb_image"])).abs().mean(),
        "mask_loss": (alpha - mask).abs().mean(),
        "eikonal": eikonal(given["grad_thetas"]),
        "sdf_consistency": given["sdf_values"].square().mean(),
        "lbs_loss": parts[0], "posedirs_loss": parts[1], "shapedirs_loss": parts[2],
    }  # fmt: skip
    factors = {
        "rgb_loss": 1, "mask_loss": weights["mask_weight"], "eikonal": weights["eikonal_weight"],
        "sdf_consistency": weights["sdf_consistency_weight"],
        "lbs_loss": 0.1 * weights["lbs_weight"], "posedirs_loss": 10 * weights["lbs_weight"],
        "shapedirs_loss": 10 * weights["lbs_weight"],
    }  # fmt: skip
    if system == "pegasus":
        edit = images(given["gt_mask_object"], given["rgb_image"])
        normal = images(given["normal_image"], given["rgb_image"])
        original, drawn = (
            images(given[f"gt_normal_{kind}"], given["rgb_image"])
            for kind in ("original", "rendering")
        )
        segment = images(given["segment_image"], given["rgb_image"])
        terms |= {
            "latent_reg_loss": given["scene_latent_code"].square().mean(),
            "normal_loss": region_distance(normal, original, mask * (1 - edit))
            + region_distance(normal, drawn, mask * edit),
            "segment_loss": torch.nn.functional.binary_cross_entropy_with_logits(segment, edit),
        }
        factors |= {
            "latent_reg_loss": weights["latent_reg_weight"],
            "normal_loss": weights["normal_weight"], "segment_loss": weights["segment_weight"],
        }  # fmt: skip
    for name, value in terms.items():
        assert float(value) == pytest.approx(wanted[name], rel=BOUND), name
    total = sum(factors[name] * value for name, value in terms.items())
    assert float(total) == pytest.approx(wanted["loss"], rel=BOUND)


@pytest.mark.slow  # torchvision initialises all of VGG's weights.
def test_features_of_a_network_with_random_weights():
    torch.manual_seed(0)
    network = VggFeatures(random_weights=True)
    images = torch.rand(2, 3, 40, 30)
    assert torch.equal(network(images, images), torch.zeros(2))
    first = network(images[:1].requires_grad_(), images[1:])
    assert first > 0
    kept = network.features(images[1:])
    assert len(kept) == 4 and kept[0].shape == (1, 64, 224, 224)
    assert torch.allclose(network(images[:1], images[:0], (0,), None, kept), first)
    # The second of two targets is kept; rows are numbered through both.
    both = network(images, images[:1], (0, 1), None, kept)
    assert torch.allclose(both, torch.zeros(2))
