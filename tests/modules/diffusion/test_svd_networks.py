"""MimicMotion's and StableAnimator's networks equal the public code's."""

import pytest
import torch

pytest.importorskip("diffusers")
from conftest import assert_agree, shapes
from diffusers.models.attention_processor import Attention

from persona.errors import UserError
from persona.modules.diffusion.networks.base_models import read_config
from persona.modules.diffusion.networks.face_encoder import FaceEncoder, FacePerceiver
from persona.modules.diffusion.networks.id_attention import IdentityAttention
from persona.modules.diffusion.networks.identity_net import IdentityNet
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.published import IRESNET_100
from persona.modules.diffusion.networks.spatio_temporal import quicken
from persona.modules.strict_state import load_strictly, split_prefixes


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_pose_net_parity(parity):
    case = parity("mimicmotion/pose_net")
    network = PoseNet(**case.about["config"])
    load_strictly(network, case.weights, "fixture")
    assert_agree(network(case.given["pose"]), case.wanted["pose_latents"])


def unet_inputs(given):
    names = ("sample", "timestep", "encoder_hidden_states", "added_time_ids")
    return [given[name] for name in names]


def test_mimicmotion_unet_parity(parity):
    case = parity("mimicmotion/unet")
    network = make_unet(case.about["config"]).eval()
    load_strictly(network.unet, case.weights, "fixture")
    inputs, pose = unet_inputs(case.given), case.given["pose_latents"]
    assert_agree(network(*inputs), case.wanted["no_pose"])
    assert_agree(network(*inputs, pose), case.wanted["with_pose"])
    alone = network(*inputs, pose, image_only=True)
    assert_agree(alone, case.wanted["with_pose_image_only"])
    # A call has no effect on later ones.
    assert_agree(network(*inputs), case.wanted["no_pose"])
    quicken(network)
    assert_agree(network(*inputs, pose), case.wanted["with_pose"])
    alone = network(*inputs, pose, image_only=True)
    assert_agree(alone, case.wanted["with_pose_image_only"])


def test_stable_animator_unet_parity(parity):
    case, plain = parity("stable_animator/unet"), parity("mimicmotion/unet")
    network = make_unet(case.about["config"], identity=True).eval()
    load_strictly(network.unet, plain.weights | case.weights, "fixture")
    latents, timestep, context, ids = unet_inputs(case.given)
    posed = network(latents, timestep, context, ids, case.given["pose_latents"])
    assert_agree(posed, case.wanted["with_pose"])
    blank = network(latents, timestep, torch.zeros_like(context), ids)
    assert_agree(blank, case.wanted["uncond_zero_context_no_pose"])
    quicken(network)
    posed = network(latents, timestep, context, ids, case.given["pose_latents"])
    assert_agree(posed, case.wanted["with_pose"])


def test_identity_attention_parity(parity):
    case = parity("stable_animator/id_attention")
    config = case.about["config"]
    tokens = config.pop("num_tokens")
    assert config.pop("scale") == 1.0
    attention = Attention(**config)
    processor = IdentityAttention(attention.inner_dim, config["cross_attention_dim"], tokens)
    attention.set_processor(processor)
    load_strictly(attention, case.weights, "fixture")
    hidden = case.given["hidden_states"]
    for name, context in case.given.items():
        if name.startswith("context"):
            assert_agree(attention(hidden, context), case.wanted[name])
    blank = torch.zeros_like(case.given["context_1p4"])
    assert_agree(attention(hidden, blank), case.wanted["context_zero"])


def test_face_encoder_parity(parity):
    case = parity("stable_animator/face_encoder")
    network = FaceEncoder(**case.about["config"])
    load_strictly(network, case.weights, "fixture")
    inputs = case.given["id_embeds"], case.given["clip_embeds"]
    assert_agree(network(*inputs), case.wanted["tokens"])
    assert_agree(network(*inputs, shortcut=0.7), case.wanted["tokens_shortcut_0p7"])


def test_face_perceiver_parity(parity):
    case = parity("stable_animator/face_perceiver")
    network = FacePerceiver(**case.about["config"])
    load_strictly(network, case.weights, "fixture")
    assert_agree(network(case.given["latents"], case.given["x"]), case.wanted["tokens"])


def test_full_size_networks_have_the_published_keys_parity(published_shapes):
    with torch.device("meta"):
        unet, pose_net = make_unet().unet, PoseNet()
        identity_unet, encoder = make_unet(identity=True).unet, FaceEncoder()
    both = {f"unet.{k}": v for k, v in shapes(unet).items()}
    both |= {f"pose_net.{k}": v for k, v in shapes(pose_net).items()}
    assert both == published_shapes("mimicmotion_MimicMotion_1-1.pth")
    assert shapes(identity_unet) == published_shapes("stable_animator_unet.pth")
    assert shapes(pose_net) == published_shapes("stable_animator_pose_net.pth")
    assert shapes(encoder) == published_shapes("stable_animator_face_encoder.pth")
    with torch.device("meta"):
        identity = IdentityNet(*IRESNET_100)
    assert shapes(identity) == published_shapes("stable_animator_glintr100_torch.pth")


def test_weights_that_do_not_fit_name_the_first_key():
    network = PoseNet(8)
    state = network.state_dict()
    first = next(iter(state))
    with pytest.raises(UserError, match=rf"{first} is missing"):
        load_strictly(network, {k: v for k, v in state.items() if k != first}, "file")
    with pytest.raises(UserError, match=r"extra\.weight has no place"):
        load_strictly(network, state | {"extra.weight": torch.zeros(1)}, "file")
    with pytest.raises(UserError, match=rf"{first} is \[2\], expected"):
        load_strictly(network, state | {first: torch.zeros(2)}, "file")
    with pytest.raises(UserError, match=r"other\.weight begins with none of"):
        split_prefixes({"other.weight": torch.zeros(1)}, ("unet.", "pose_net."), "file")


@pytest.mark.parametrize(("text", "words"), [("{", "is not whole"), ("[1]", "is no configuration")])
def test_a_broken_configuration_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=rf"config\.json {words}: fetch it again"):
        read_config(tmp_path / "config.json")
