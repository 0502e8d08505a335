"""Faster networks give the same results, or nearly the same if they use 8 bits."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("diffusers")
from diffusers import AutoencoderKLTemporalDecoder
from tiny_weights import UNET, VAE

from persona.errors import UserError
from persona.modules.diffusion.networks.fp8 import Fp8Linear, side_by_side, to_fp8
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.spatio_temporal import QuickResBlock, QuickTransformer
from persona.modules.diffusion.networks.speed import Speed, uncompiled
from persona.modules.diffusion.networks.upsample import QuickUpsample

CPU = torch.device("cpu")
QUICK = QuickResBlock, QuickTransformer, QuickUpsample


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def called(identity, clips=1, frames=3):
    """A UNet of which all weights matter, and a call of it; with poses if it has one clip."""
    torch.manual_seed(0)
    network = make_unet(UNET | {"block_out_channels": (32, 64)}, identity=identity).eval()
    for value in network.parameters():
        nn.init.normal_(value, std=0.1)
    tokens = 5 if identity else 1
    inputs = (
        torch.randn(clips, frames, 8, 8, 12), torch.tensor(1.0), torch.randn(clips, tokens, 64),
        torch.randn(clips, 3), torch.randn(frames, 32, 8, 12) if clips == 1 else None,
    )  # fmt: skip

    def call(other):
        like = next(other.parameters())
        return other(*(None if x is None else x.to(like) for x in inputs)).float().cpu()

    return network, call


def changed(network, speed):
    network = copy.deepcopy(network)
    speed.apply([network])
    return network


def error(value, wanted):
    return float((value - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("identity", "clips", "last"), [(False, 1, True), (False, 2, False), (True, 2, True)]
)
def test_rewritten_blocks_give_the_same(identity, clips, last):
    network, call = called(identity, clips)
    quick = changed(network, Speed(channels_last=last))
    kinds = [type(module) for module in quick.modules()]
    assert QuickResBlock in kinds and QuickTransformer in kinds
    assert list(quick.state_dict()) == list(network.state_dict())
    wanted = call(network)
    assert error(call(quick), wanted) < 1e-5
    with_another_mixture = copy.deepcopy(network)
    for name, value in with_another_mixture.named_parameters():
        if name.endswith("time_mixer.mix_factor"):
            value += 0.1
    assert error(call(with_another_mixture), wanted) > 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are for a GPU")
def test_a_network_of_kernels_gives_the_same_on_the_device(monkeypatch):
    # TF32 keeps 10 bits, so that inputs a rounding apart may come out a thousandth apart.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, call = called(identity=True)
    plain = changed(network, Speed(channels_last=True)).cuda()
    quick = changed(network, Speed(channels_last=True, fused=True)).cuda()
    assert any(getattr(module, "fused", False) for module in quick.modules())
    assert error(call(quick), call(plain)) < 3e-5
    if torch.cuda.get_device_capability() >= (8, 9):
        half = network.cuda().bfloat16()
        small = changed(half, Speed(channels_last=True, fused=True, fp8=True))
        assert 1e-3 < error(call(small), call(half)) < 0.08


def test_several_tokens_are_attended_to():
    network, _ = called(identity=False)
    inputs = torch.randn(1, 2, 8, 8, 8), torch.tensor(0.5), torch.randn(1, 3, 64), torch.randn(1, 3)
    assert error(changed(network, Speed())(*inputs), network(*inputs)) < 1e-5


def test_the_decoder_gives_the_same():
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(**VAE).eval()
    latents = torch.randn(3, 4, 4, 6)
    quick = changed(vae, Speed(channels_last=True))
    wanted = vae.decode(latents, num_frames=3).sample
    assert error(quick.decode(latents, num_frames=3).sample, wanted) < 1e-5


def test_attention_to_one_token_asks_nothing():
    network, call = called(identity=False)
    asked = []
    for which in (network, changed(network, Speed())):
        queries = [m for name, m in which.named_modules() if name.endswith("attn2.to_q")]
        for layer in queries:
            layer.register_forward_hook(lambda *_: asked.append(1))
        call(which)
    assert len(asked) == len(queries)


def test_eight_bits_are_near_and_take_half_the_memory():
    torch.manual_seed(0)
    layer, tokens = nn.Linear(64, 32), torch.randn(5, 7, 64) * torch.logspace(-3, 3, 7)[:, None]
    small = copy.deepcopy(nn.Sequential(layer, nn.Linear(8, 32)))
    assert to_fp8(small) == 1 and isinstance(small[0], Fp8Linear)
    assert small[0].weight.element_size() == 1 and small[0].weight_scale.shape == (32, 1)
    out = small[0](tokens) - layer.bias
    wanted = F.linear(tokens, layer.weight)
    # Relative errors are those of 3-bit mantissas, for tokens of all sizes.
    off = (out - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert 1e-4 < off.max() < 0.06
    beside = [nn.Linear(64, 32), nn.Linear(64, 16)]
    to_fp8(nn.Sequential(*beside))
    together = torch.cat([layer(tokens) for layer in beside], -1)
    torch.testing.assert_close(side_by_side(beside, tokens), together)
    network, call = called(identity=True)
    assert 1e-5 < error(call(changed(network, Speed(fp8=True))), call(network)) < 0.05
    kernels = changed(network, Speed(fp8=True, fused=True))  # Without a GPU it uses no kernels.
    assert error(call(kernels), call(network)) < 0.05
    narrow = [m for n, m in kernels.named_modules() if n.endswith("ff.net.2")]
    assert narrow and all(isinstance(layer, Fp8Linear) for layer in narrow)


def test_outermost_blocks_are_compiled_once_each(monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: asked.append((self, how)))
    network, _ = called(identity=False)
    Speed(compile=True).apply([network])
    blocks = [m for m in network.modules() if isinstance(m, QUICK)]
    assert [block for block, _ in asked] == blocks
    assert all(how == {"dynamic": False} for _, how in asked)


@pytest.mark.slow  # In a process of its own, as the tests' type checks cannot be traced.
def test_compiled_blocks_are_whole_graphs():
    code = """
import torch
from torch import nn
from test_network_speed import called, changed, error
from persona.modules.diffusion.networks.speed import Speed, many_sizes

compiled = nn.Module.compile
nn.Module.compile = lambda self, **how: compiled(self, backend="eager", fullgraph=True, **how)
network, call = called(identity=True)
with torch.no_grad(), many_sizes():
    wanted = call(network)
    print(error(call(changed(network, Speed(compile=True, channels_last=True))), wanted))
    print(error(call(changed(network, Speed(compile=True, fp8=True))), wanted))
"""
    same, small = printed_by(code)
    assert same < 1e-5 < small < 0.05


@pytest.mark.gpu
def test_all_options_together_compile_once():
    code = """
import torch
from test_network_speed import called, changed, error
from persona.modules.diffusion.networks.speed import Speed, many_sizes

network, call = called(identity=False)
with torch.no_grad(), many_sizes():
    wanted = call(network.cuda())
    network.bfloat16()
    options = {"fused": True, "channels_last": True, "fp8": True}
    plain = call(changed(network, Speed(**options)))
    quick = changed(network, Speed(compile=True, **options))
    compiled = call(quick)
    with torch._dynamo.config.patch(error_on_recompile=True):
        again = call(quick)
    print(error(plain, wanted), error(compiled, plain), error(again, compiled))
"""
    plain, compiled, again = printed_by(code)
    assert plain < 0.05  # Two digits of 8 bits.
    assert compiled < 0.02  # Rounded to 16 bits, and then to 8, in other places.
    assert again == 0


def printed_by(code):
    """Numbers that code prints in a process of its own, which can import this file."""
    paths = [str(Path(__file__).parent), *sys.path]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


def test_a_call_of_a_size_that_comes_once_is_not_compiled():
    made = []

    def backend(graph, _):
        made.append(graph)
        return graph.forward

    layer = nn.Linear(3, 2)
    layer._compiled_call_impl = torch.compile(layer._call_impl, backend=backend, dynamic=False)
    with uncompiled():
        layer(torch.zeros(5, 3))
    assert not made
    layer(torch.zeros(4, 3))
    assert len(made) == 1


def test_what_does_not_go_together(monkeypatch):
    Speed(fp8=True, compile=True).check(torch.float32, CPU, "model")
    with pytest.raises(UserError, match="offload=sequential moves single layers"):
        Speed(compile=True).check(torch.float32, CPU, "sequential")
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match="this GPU has no 8-bit units"):
        Speed(fp8=True).check(torch.bfloat16, cuda, "none")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(UserError, match=r"needs generator\.dtype=bfloat16"):
        Speed(fp8=True).check(torch.float16, cuda, "none")
