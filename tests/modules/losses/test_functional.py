import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from persona.modules.losses.functional import (
    _blur,
    _blur_matrix,
    depth_silog,
    dilate,
    occlusion_boundary,
    sobel_magnitude,
    ssim_map,
    total_variation,
)
from persona.modules.losses.geometry import normal_error


@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_blur_by_blocks_is_that_by_whole_matrices(border):
    """Values and gradients, with sides shorter and longer than a block and no multiple of it."""
    images = torch.rand(2, 3, 150, 41, dtype=torch.float64, requires_grad=True)
    weight = torch.rand_like(images)
    rows, columns = (
        _blur_matrix(n, 11, 1.5, images.device, images.dtype, border) for n in (150, 41)
    )
    whole = rows @ images @ columns.T
    blurred = _blur(images, 11, 1.5, border)
    torch.testing.assert_close(blurred, whole)
    found = torch.autograd.grad((weight * blurred).sum(), images)
    torch.testing.assert_close(found, torch.autograd.grad((weight * whole).sum(), images))


def test_ssim_equals_skimage():
    random = np.random.default_rng(0)
    x, y = random.random((2, 40, 30))
    ours = ssim_map(torch.tensor(x)[None], torch.tensor(y)[None])[0].numpy()
    _, theirs = structural_similarity(
        x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    # Only the inner part: skimage's reflection at the border repeats the edge pixel, ours not.
    np.testing.assert_allclose(ours[6:-6, 6:-6], theirs[6:-6, 6:-6], atol=1e-7)


def test_ssim_with_a_zero_border_is_by_padded_convolutions():
    torch.manual_seed(0)
    x, y = torch.rand(2, 1, 14, 9, dtype=torch.float64)
    tap = (-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2)).exp()
    window = torch.outer(tap, tap) / tap.sum() ** 2

    def mean(image):
        return torch.nn.functional.conv2d(image[None], window[None, None], padding=5)[0]

    a, b = mean(x), mean(y)
    both = mean(x * y) - a * b
    apart = mean(x * x) - a * a + mean(y * y) - b * b
    expected = (2 * a * b + 0.01**2) * (2 * both + 0.03**2)
    expected /= (a * a + b * b + 0.01**2) * (apart + 0.03**2)
    torch.testing.assert_close(ssim_map(x, y, border="zero"), expected)


def test_ssim_of_an_image_with_itself_is_one():
    x = torch.rand(3, 20, 20, dtype=torch.float64)
    torch.testing.assert_close(ssim_map(x, x), torch.ones_like(x))


def test_ssim_gradcheck():
    torch.manual_seed(0)
    x, y = torch.rand(2, 1, 12, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ssim_map(x, y).sum(), x.requires_grad_())


def test_silog_ignores_scale_and_shift_and_sees_errors():
    torch.manual_seed(0)
    truth = 1 + torch.rand(1, 10, 10)
    assert depth_silog(truth * 3 + 2, truth) < 1e-3
    assert depth_silog(truth.flip(1), truth) > 0.1


def test_silog_by_hand():
    truth, other = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), torch.tensor([[[5.0, 1.0, 1.5, 3.0]]])
    eps = 1e-4
    d = np.log([eps, 0.5 + eps, 1 + eps]) - np.log([eps, 0.25 + eps, 1 + eps])
    expected = np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2)
    assert float(depth_silog(other, truth)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("hidden", ["prediction", "truth"])
def test_silog_leaves_out_what_either_lacks(hidden):
    torch.manual_seed(0)
    depths = {"prediction": torch.rand(1, 4, 6) + 1, "truth": torch.rand(1, 4, 6) + 1}
    expected = depth_silog(depths["prediction"][..., 2:], depths["truth"][..., 2:])
    depths[hidden][..., :2] = 0
    torch.testing.assert_close(depth_silog(**depths), expected)


def test_silog_without_overlap_is_finite():
    empty = torch.zeros(1, 4, 4)
    assert torch.isfinite(depth_silog(empty, torch.ones(1, 4, 4)))


def test_sobel_equals_scipy():
    image = np.random.default_rng(0).random((9, 8))
    gradient = [ndimage.sobel(image, axis, mode="nearest") / 8 for axis in (0, 1)]
    ours = sobel_magnitude(torch.tensor(image)[None])[0]
    np.testing.assert_allclose(ours, np.hypot(*gradient), atol=1e-12)


@pytest.mark.parametrize("side", [0, 2, 4, 8, 50])
def test_dilate_equals_scipy(side):
    mask = np.random.default_rng(0).random((20, 17)) > 0.97
    expected = ndimage.binary_dilation(mask, np.ones((side + 1, side + 1)))
    assert np.array_equal(dilate(torch.tensor(mask)[None], side)[0], expected)


def test_boundary_marks_canonical_jumps_but_not_the_face():
    position = torch.zeros(3, 20, 20)
    position[:, :, 10:] = 0.5
    nothing = torch.zeros(1, 20, 20, dtype=torch.bool)
    boundary = occlusion_boundary(position, nothing, side_px=3)
    assert boundary[0, :, 8:12].all() and not boundary[0, :, :7].any()
    assert not occlusion_boundary(position, ~nothing, side_px=3).any()
    # A step of h is a gradient of h / 2, so the threshold of 0.02 is a step of 0.04.
    assert occlusion_boundary(0.1 * position, nothing, side_px=3).any()
    assert not occlusion_boundary(0.06 * position, nothing, side_px=3).any()


def test_total_variation_stays_inside_the_mask():
    image = torch.zeros(3, 6, 6)
    image[:, :, 3:] = 1
    inside = torch.zeros(1, 6, 6, dtype=torch.bool)
    inside[:, :, :3] = True
    assert total_variation(image, inside) == 0
    # One of five pairs of columns (or, transposed, of rows) differs by 1.
    for turned in (image, image.transpose(1, 2)):
        value = total_variation(turned, torch.ones_like(inside))
        assert float(value) == pytest.approx(1 / 5)


def test_normal_error_is_zero_for_equal_normals_and_skips_the_unknown():
    normal = torch.nn.functional.normalize(torch.randn(3, 8, 8), dim=0)
    alpha = torch.ones(1, 8, 8)
    truth = (normal + 1) / 2
    assert normal_error(normal, alpha, truth) < 1e-5
    assert normal_error(-normal, alpha, truth) > 1
    assert normal_error(-normal, alpha, torch.zeros(3, 8, 8)) == 0
    assert normal_error(torch.zeros(3, 8, 8), torch.zeros(1, 8, 8), truth) == 0
