import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from engine.scoring.metrics import HIGHER_LEAKS, feature_distance, mse, mse_r, psnr, ssim
from tests.conftest import IMAGE_SHAPE, seeded

IMAGES = torch.rand(4, 3, 16, 14, generator=seeded(0), dtype=torch.float64)
TRUTHS = (0.7 * IMAGES + 0.3 * torch.rand(4, 3, 16, 14, generator=seeded(1))).clamp(0, 1)


def test_mse_is_the_mean_over_all_pixels():
    images, truths = torch.tensor([[[[0.0, 0.5]]], [[[1.0, 1.0]]]]), torch.zeros(2, 1, 1, 2)

    assert mse(images, truths).tolist() == [0.125, 1.0]


def test_mse_equals_numpy():
    expected = ((IMAGES.numpy() - TRUTHS.numpy()) ** 2).reshape(4, -1).mean(1)

    np.testing.assert_allclose(mse(IMAGES, TRUTHS).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("difference", "decibels"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0)])
def test_psnr_has_a_peak_of_one(difference, decibels):
    truth = torch.zeros(1, 1, 2, 2, dtype=torch.float64)

    assert psnr(truth + difference, truth).item() == pytest.approx(decibels)


def test_the_papers_convention_is_six_decibels_lower():
    here = psnr(IMAGES, TRUTHS)
    paper = psnr(2 * IMAGES - 1, 2 * TRUTHS - 1)

    torch.testing.assert_close(here - paper, torch.full((4,), 20 * math.log10(2)).double())


def test_a_perfect_reconstruction_has_a_psnr_of_100():
    assert psnr(TRUTHS, TRUTHS).tolist() == pytest.approx([100.0] * 4)


def ssim_of_torchmetrics(images, truths):
    _, similarity = structural_similarity_index_measure(
        images, truths, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    # Its borders are windows on reflected pixels; ours are left out.
    return similarity[:, :, 5:-5, 5:-5].flatten(1).mean(1)


@pytest.mark.parametrize("shape", [(4, 3, 16, 14), (2, 1, 28, 28), (3, 1, 12, 20)])
def test_ssim_equals_that_of_torchmetrics(shape):
    truths = torch.rand(*shape, generator=seeded(0), dtype=torch.float64)
    noise = torch.rand(*shape, generator=seeded(1), dtype=torch.float64)
    images = 0.6 * truths + 0.4 * noise

    torch.testing.assert_close(ssim(images, truths), ssim_of_torchmetrics(images, truths))


def windowed_ssim(image, truth):
    """The slow oracle: one window and one channel at a time, in numpy."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for x, y in zip(image, truth, strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                a, b = (z[top : top + 11, left : left + 11] for z in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a = (window * (a - mean_a) ** 2).sum()
                var_b = (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 1e-4)
                    * (2 * covariance + 9e-4)
                    / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
                )
    return np.mean(values)


def test_ssim_equals_a_loop_over_windows():
    expected = [
        windowed_ssim(image, truth)
        for image, truth in zip(IMAGES.numpy(), TRUTHS.numpy(), strict=True)
    ]

    np.testing.assert_allclose(ssim(IMAGES, TRUTHS).numpy(), expected, rtol=1e-9)


def test_ssim_of_an_image_with_itself_is_one():
    torch.testing.assert_close(ssim(TRUTHS, TRUTHS), torch.ones(4, dtype=torch.float64))


def test_mse_r_is_the_mean_squared_difference_of_representations(model, head, images):
    others = images.flip(0)

    found = mse_r(images, others, model=model, head=head)

    with torch.no_grad():
        first, second = model.features(images).numpy(), model.features(others).numpy()
    np.testing.assert_allclose(found.detach().numpy(), ((first - second) ** 2).mean(1), rtol=1e-4)
    assert mse_r(images, images, model=model, head=head).tolist() == [0.0] * 5


def test_feature_distance_is_euclidean():
    images, truths = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2)

    assert feature_distance(images, truths, extract=lambda x: 2 * x).tolist() == [10.0, 2.0]


def test_every_metric_leaks_more_in_its_stated_direction():
    truth = torch.rand(1, *IMAGE_SHAPE, generator=seeded(0))
    near = truth + 0.01 * torch.randn(1, *IMAGE_SHAPE, generator=seeded(1))
    far = torch.rand(1, *IMAGE_SHAPE, generator=seeded(2))

    for name, metric in {"mse": mse, "psnr": psnr, "ssim": ssim}.items():
        assert bool(metric(near, truth) > metric(far, truth)) == HIGHER_LEAKS[name]
