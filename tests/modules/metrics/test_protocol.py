import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from persona.modules.metrics.protocol import LPIPS, PSNR, SSIM, MaskIoU, protocol_metrics, quantize


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pred, truth = torch.rand(2, 2, 3, 64, 48, generator=generator)
    mask = torch.zeros(2, 1, 64, 48)
    mask[:, :, 10:50, 12:36] = 1
    alpha = mask.roll(3, 3)
    pred = pred * alpha + 1 - alpha
    return pred, alpha, truth, mask


def white(image, mask):
    return np.round(np.clip(image * mask + 1 - mask, 0, 1) * 255) / 255


def mean_over_frames(function, *arrays):
    return np.mean([function(*(a.numpy()[i] for a in arrays)) for i in range(len(arrays[0]))])


def test_psnr_variants_equal_skimage(images):
    def full(pred, alpha, truth, mask):
        return peak_signal_noise_ratio(white(truth, mask), white(pred, mask), data_range=1)

    def own_alpha(pred, alpha, truth, mask):
        return peak_signal_noise_ratio(white(truth, mask), white(pred, 1.0), data_range=1)

    def foreground(pred, alpha, truth, mask):
        inside = np.broadcast_to(mask > 0.5, pred.shape)
        return peak_signal_noise_ratio(
            white(truth, mask)[inside], white(pred, mask)[inside], data_range=1
        )

    for variant, oracle in (("full", full), ("alpha", own_alpha), ("fg", foreground)):
        metric = PSNR(variant=variant)
        metric.update(*images)
        assert float(metric.compute()) == pytest.approx(mean_over_frames(oracle, *images), abs=1e-4)


def test_ssim_equals_skimage(images):
    def oracle(pred, alpha, truth, mask):
        _, image = structural_similarity(
            white(truth, mask), white(pred, mask), data_range=1, channel_axis=0, full=True,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        # The two pad differently, but the border is white in both images.
        return image.mean()

    metric = SSIM()
    metric.update(*images)
    assert float(metric.compute()) == pytest.approx(mean_over_frames(oracle, *images), abs=1e-4)


def test_truth_against_itself_is_perfect(images):
    _, _, truth, mask = images
    own = quantize(truth * mask + 1 - mask)
    values = protocol_metrics(None)(own, mask, truth, mask)
    assert all(torch.isinf(v) for k, v in values.items() if k.endswith("psnr"))
    assert all(v == 1 for k, v in values.items() if k.endswith(("ssim", "iou")))


def test_full_hides_what_alpha_shows(images):
    """A silhouette error outside the mask moves only the alpha variant."""
    pred, alpha, truth, mask = images
    worse = torch.where(mask > 0, pred, torch.zeros_like(pred))
    for variant, same in (("full", True), ("fg", True), ("alpha", False)):
        values = []
        for image in (pred, worse):
            metric = PSNR(variant=variant)
            metric.update(image, alpha, truth, mask)
            values.append(float(metric.compute()))
        assert (values[0] == values[1]) is same


def test_mask_iou_by_hand(images):
    metric = MaskIoU()
    metric.update(*images)
    assert float(metric.compute()) == pytest.approx(21 / 27)


def test_mean_over_frames_is_not_pooled(images):
    pred, alpha, truth, mask = images
    one, both = PSNR(), PSNR()
    values = []
    for i in range(2):
        one.reset()
        one.update(pred[i : i + 1], alpha[i : i + 1], truth[i : i + 1], mask[i : i + 1])
        values.append(float(one.compute()))
    both.update(*images)
    assert float(both.compute()) == pytest.approx(np.mean(values), abs=1e-5)


def test_lpips_is_left_out_without_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert not any("lpips" in name for name in protocol_metrics("alex"))


def test_lpips_squeeze(images, torch_home):
    _, _, truth, mask = images
    own = quantize(truth * mask + 1 - mask)
    for variant in ("full", "fg"):
        metric = LPIPS(net="squeeze", variant=variant)
        metric.update(own, mask, truth, mask)
        assert float(metric.compute()) == pytest.approx(0, abs=1e-6)
        metric.update(own.flip(3), mask, truth, mask)
        assert float(metric.compute()) > 0.01


def test_unknown_variant():
    with pytest.raises(ValueError, match="variant"):
        PSNR(variant="crop")
