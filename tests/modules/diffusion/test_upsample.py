"""The quick upsampling against diffusers' own."""

import pytest
import torch

pytest.importorskip("diffusers")
from diffusers.models.upsampling import Upsample2D

from persona.modules.diffusion.networks.spatio_temporal import quicken


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(5, 3), (2, 2)])
def test_it_convolves_the_upsampled_image(layout, size):
    torch.manual_seed(0)
    layer = Upsample2D(3, use_conv=True, out_channels=4).to(memory_format=layout)
    images = torch.randn(2, 3, *size).to(memory_format=layout)
    with torch.no_grad():
        wanted = layer.double()(images.double())
        layer.float()
        quicken(layer)
        found = layer(images)
    assert type(layer) is not Upsample2D
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_another_size_than_twice_is_diffusers_own():
    layer = Upsample2D(3, use_conv=True)
    images = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        wanted = layer(images, (9, 7))
        quicken(layer)
        assert torch.equal(layer(images, (9, 7)), wanted)


@pytest.mark.parametrize(
    "other",
    [
        {"use_conv": False}, {"use_conv_transpose": True}, {"norm_type": "ln_norm", "eps": 1e-5},
        {"kernel_size": 1, "padding": 0}, {"padding": 0},
        {"interpolate": False}, {"name": "Conv2d_0"},
    ],
)  # fmt: skip
def test_other_layers_stay(other):
    layer = Upsample2D(4, **{"use_conv": True, "elementwise_affine": True} | other)
    quicken(layer)
    assert type(layer) is Upsample2D
