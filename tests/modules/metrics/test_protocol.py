import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from persona.errors import UserError
from persona.modules.metrics.protocol import (
    LPIPS,
    PSNR,
    SSIM,
    MaskIoU,
    lpips_nets,
    person_box,
    protocol_metrics,
    quantize,
    score_frame,
)


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


@pytest.fixture
def soft(images):
    """The images with soft mask values below and above 0.5."""
    pred, alpha, truth, mask = images
    mask[:, :, 7:10, 12:36], mask[:, :, 50:53, 12:36] = 0.3, 0.7
    return pred, alpha, truth, mask


def mean_over_frames(function, *arrays):
    return np.mean([function(*(a.numpy()[i] for a in arrays)) for i in range(len(arrays[0]))])


def test_psnr_variants_equal_skimage(soft):
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
        metric.update(*soft)
        assert float(metric.compute()) == pytest.approx(mean_over_frames(oracle, *soft), abs=1e-4)


def test_ssim_variants_equal_skimage(images):
    def ssim(truth, pred):
        _, image = structural_similarity(
            truth, pred, data_range=1, channel_axis=0, full=True, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        return image

    # skimage pads differently, but the border is white in both images.
    def full(pred, alpha, truth, mask):
        return ssim(white(truth, mask), white(pred, mask)).mean()

    def own_alpha(pred, alpha, truth, mask):
        return ssim(white(truth, mask), white(pred, 1.0)).mean()

    def foreground(pred, alpha, truth, mask):
        return ssim(white(truth, mask), white(pred, mask))[:, mask[0] > 0.5].mean()

    found = []
    for variant, oracle in (("full", full), ("alpha", own_alpha), ("fg", foreground)):
        metric = SSIM(variant=variant)
        metric.update(*images)
        found.append(float(metric.compute()))
        assert found[-1] == pytest.approx(mean_over_frames(oracle, *images), abs=1e-4)
    assert np.ptp(found) > 0.1  # The variants differ on these images.


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


def test_half_opaque_is_inside(images):
    """12 of the mask's 24 columns are opaque, 12 have alpha 0.4; 6 columns beside it have 0.6."""
    _, _, truth, mask = images
    alpha = torch.zeros_like(mask)
    alpha[:, :, 10:50, 12:24] = 1
    alpha[:, :, 10:50, 24:36] = 0.4
    alpha[:, :, 10:50, 36:42] = 0.6
    metric = MaskIoU()
    metric.update(truth, alpha, truth, mask)
    assert float(metric.compute()) == pytest.approx(12 / 30)


def test_person_box_by_hand():
    """The box has aspect 0.75: the height decides for a tall person, the width for a lying one."""
    mask = torch.zeros(1, 96, 80)
    mask[:, 20:76, 24:56] = 1
    assert person_box(mask).tolist() == [40 - 52.5 / 2, 48 - 35, 52.5, 70]
    lying = mask.transpose(1, 2)
    assert person_box(lying).tolist() == pytest.approx([48 - 35, 40 - 70 / 1.5, 70, 70 / 0.75])


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


def test_lpips_of_the_foreground_looks_at_the_masks_box_alone(torch_home):
    """On the whole image, white pixels dilute the same error."""
    generator = torch.Generator().manual_seed(3)
    pred, truth = torch.rand(2, 1, 3, 128, 160, generator=generator)
    mask = torch.zeros(1, 1, 128, 160)
    mask[:, :, 30:100, 50:130] = 1
    metrics = {variant: LPIPS(net="squeeze", variant=variant) for variant in ("full", "fg")}
    values = {v: float(metric(pred, mask, truth, mask)) for v, metric in metrics.items()}
    cut = [image[:, :, 30:100, 50:130] for image in (pred, mask, truth, mask)]
    assert values["fg"] == pytest.approx(float(metrics["full"](*cut)), rel=1e-5)
    assert values["full"] < 0.9 * values["fg"]


@pytest.mark.filterwarnings("ignore")
def test_lpips_equals_torchmetrics(torch_home):
    generator = torch.Generator().manual_seed(4)
    pred, truth = (quantize(torch.rand(1, 3, 96, 80, generator=generator)) for _ in range(2))
    whole = torch.ones(1, 1, 96, 80)
    value = LPIPS(net="squeeze")(pred, whole, truth, whole)
    theirs = LearnedPerceptualImagePatchSimilarity(net_type="squeeze", normalize=True)
    assert float(value) == pytest.approx(float(theirs(pred, truth)), rel=1e-5)


def test_unknown_variant():
    with pytest.raises(ValueError, match="variant"):
        PSNR(variant="box")


# Tests on one frame, of which place, colours or silhouette are changed one at a time.


@pytest.fixture
def frame():
    """Truth and mask of a textured block on a dark background; 96 x 80."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 12, 10, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, (96, 80), mode="bilinear")[0]
    mask = torch.zeros(1, 96, 80)
    mask[:, 20:76, 24:56] = 1
    return truth * mask + 0.1 * (1 - mask), mask


def numbers(pred, alpha, truth, mask, net=None):
    return score_frame(protocol_metrics(net), pred * alpha + 1 - alpha, alpha, truth, mask)


def test_every_number_of_a_perfect_frame(frame, torch_home):
    truth, mask = frame
    values = score_frame(
        protocol_metrics(["squeeze"]), quantize(truth * mask + 1 - mask), mask, truth, mask
    )
    assert len(values) == 1 + 4 * 3
    for name, value in values.items():
        best = np.inf if name.endswith("psnr") else 0 if "lpips" in name else 1
        assert value == pytest.approx(best, abs=1e-6), name


def test_crop_equals_skimage_on_the_box(frame):
    """PERSONA's box is the mask's, with a width of 0.75 of the height, enlarged by 1.25."""
    truth, mask = frame
    pred = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    pred = pred.clamp(0, 1)
    values = numbers(pred, mask, truth, mask)
    # 56 x 32 pixels about (48, 40): 56 * 1.25 = 70 high and 52.5 wide, at least 64 pixels.
    box = np.s_[:, 13:83, 7:71]
    a, b = (white(x.numpy(), mask.numpy())[box] for x in (truth, pred))
    assert values["crop_psnr"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), 1e-5)
    _, image = structural_similarity(
        a, b, data_range=1, channel_axis=0, full=True, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert values["crop_ssim"] == pytest.approx(image.mean(), abs=1e-4)
    # The larger the share of white background, the better the score of the same error.
    assert values["fg_psnr"] < values["crop_psnr"] < values["psnr"]


def test_given_box_is_what_crop_sees(frame):
    truth, mask = frame
    pred = truth.clone()
    pred[:, 70:76] = 0  # Only the feet are wrong.
    metrics = protocol_metrics(None)
    head = torch.tensor([8.0, 0.0, 64.0, 64.0])
    seen = quantize(pred * mask + 1 - mask)
    assert score_frame(metrics, seen, mask, truth, mask, head)["crop_psnr"] == np.inf
    assert score_frame(metrics, seen, mask, truth, mask)["crop_psnr"] < 40


def test_silhouette_overflow_shows_in_alpha_and_iou_alone(frame):
    truth, mask = frame
    alpha = mask.clone()
    alpha[:, 20:76, 56:62] = 1
    values = numbers(truth, alpha, truth, mask)
    for name in ("psnr", "crop_psnr", "fg_psnr"):
        assert values[name] == np.inf
    for name in ("ssim", "crop_ssim", "fg_ssim"):
        assert values[name] == 1
    assert values["mask_iou"] == pytest.approx(32 / 38)
    # 6 x 56 pixels of 0.1 where white should be.
    error = 0.9**2 * 6 * 56 / (96 * 80)
    assert values["alpha_psnr"] == pytest.approx(-10 * np.log10(error), abs=0.05)
    assert values["alpha_ssim"] < 0.99


def test_missing_silhouette_shows_everywhere(frame):
    truth, mask = frame
    alpha = mask.clone()
    alpha[:, 20:76, 50:56] = 0
    values = numbers(truth, alpha, truth, mask)
    assert values["mask_iou"] == pytest.approx(26 / 32)
    # The person is white there: the same squared error, averaged over different areas.
    squared = ((1 - truth[:, 20:76, 50:56]) ** 2).sum().item()
    for name, pixels in (("psnr", 96 * 80), ("alpha_psnr", 96 * 80), ("crop_psnr", 70 * 64),
                         ("fg_psnr", 56 * 32)):  # fmt: skip
        assert values[name] == pytest.approx(-10 * np.log10(squared / 3 / pixels), abs=0.05)


def test_shift_and_blur_cost_every_variant(frame, torch_home):
    """A shift by one pixel costs less than by three; a blur of colours keeps the mask."""
    truth, mask = frame
    one, three = (
        numbers(truth.roll(n, 2), mask.roll(n, 2), truth, mask, "squeeze") for n in (1, 3)
    )
    kernel = torch.ones(3, 1, 5, 5) / 25
    blurred = torch.nn.functional.conv2d(truth[None], kernel, padding=2, groups=3)[0]
    blur = numbers(blurred, mask, truth, mask, "squeeze")
    for name in one:
        better = -1 if "lpips" in name else 1
        best = 0 if "lpips" in name else np.inf if "psnr" in name else 1
        assert better * one[name] > better * three[name], name
        if name != "mask_iou":
            assert better * blur[name] < better * best, name
    assert one["mask_iou"] == pytest.approx(31 / 33)
    assert blur["mask_iou"] == 1


@pytest.mark.parametrize(
    "row, column, seen",
    [
        (75, 74, True), (76, 74, False), (75, 75, False),
        (5, 10, True), (4, 10, False), (5, 9, False),
    ],
)  # fmt: skip
def test_a_box_is_rounded_outwards(row, column, seen):
    """Rows 5.7 to 75.8 and columns 10.2 to 74.7 reach into pixels 5 to 75 and 10 to 74."""
    truth, mask = torch.full((3, 96, 80), 0.5), torch.ones(1, 96, 80)
    pred = truth.clone()
    pred[:, row, column] = 1
    box = torch.tensor([10.2, 5.7, 64.5, 70.1])
    values = score_frame(protocol_metrics(None), pred, mask, truth, mask, box)
    assert np.isfinite(values["crop_psnr"]) == seen


def test_nobody_to_score(frame):
    truth, mask = frame
    with pytest.raises(ValueError, match="mask is empty"):
        score_frame(protocol_metrics(None), truth, mask, truth, torch.zeros_like(mask))


def test_unknown_network():
    with pytest.raises(UserError, match="lpips_net=resnet is unknown: choose vgg, alex, squeeze"):
        protocol_metrics("resnet")


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match="lpips_net=resnet is unknown: choose vgg, alex, squeeze"):
        lpips_nets(["squeeze", "resnet"])
