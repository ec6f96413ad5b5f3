import math

import pytest
import torch
from scipy.stats import norm

from search_spaces import GaussianLatentSpace, TanhLatentSpace
from search_spaces.latent_spaces import BoxLatentSpace, RawLatentSpace
from tests.conftest import seeded

POINTS = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1.0, 0.1]], dtype=torch.float64)


def test_the_normal_view_of_the_gaussian_space_is_the_latent_itself():
    points = torch.tensor([[0.0, -1.5, 4.99]])

    assert torch.equal(GaussianLatentSpace(3).to_latents(points, "normal"), points)


def test_the_normal_view_is_clamped_to_the_bound():
    points = torch.tensor([[-7.0, 5.5, 1.0]])

    assert GaussianLatentSpace(3).to_latents(points, "normal").tolist() == [[-5.0, 5.0, 1.0]]
    found = GaussianLatentSpace(3, bound=2.0).to_latents(points, "normal")
    assert found.tolist() == [[-2.0, 2.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [1.0, 5.0, 12.0])
def test_corners_lie_within_any_bound(bound, dtype):
    # Beyond some eight deviations the distribution function is one to the last bit.
    corners = torch.tensor([[0.0, 1.0]], dtype=dtype)

    found = GaussianLatentSpace(2, bound=bound).to_latents(corners, "unit")

    assert found.isfinite().all()
    assert found.abs().max() <= bound


def test_the_unit_view_is_the_inverse_of_the_truncated_normal_distribution():
    space = GaussianLatentSpace(3, bound=2.0)

    low = norm.cdf(-2.0)
    expected = norm.ppf(low + (1 - 2 * low) * POINTS.numpy())
    found = space.to_latents(POINTS, "unit")
    torch.testing.assert_close(found, torch.from_numpy(expected))
    assert found[0, 0].item() == pytest.approx(-2.0)
    assert found[1, 1].item() == pytest.approx(2.0)
    assert found[0, 2].item() == pytest.approx(0.0, abs=1e-12)


def test_uniform_draws_of_the_unit_view_are_draws_of_the_prior():
    uniform = torch.rand(100_000, 2, generator=seeded(0), dtype=torch.float64)

    latents = GaussianLatentSpace(2).to_latents(uniform, "unit")

    # Mean, variance and fourth moment of N(0, 1); four standard errors.
    for moment, expected, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)):
        error = (latents.pow(moment).mean(0) - expected).abs()
        assert (error < 4 * math.sqrt(variance / 100_000)).all()
    assert abs(float(torch.corrcoef(latents.T)[0, 1])) < 4 / math.sqrt(100_000)


def test_the_unit_view_of_the_box_is_the_box():
    found = BoxLatentSpace(3).to_latents(POINTS, "unit")

    assert found.tolist() == [[-2.0, -1.0, 0.0], [1.0, 2.0, pytest.approx(-1.6)]]


def test_the_normal_view_of_the_box_goes_through_the_normal_distribution():
    points = torch.tensor([[0.0, 1.0, -40.0]], dtype=torch.float64)

    found = BoxLatentSpace(3, half_width=3.0).to_latents(points, "normal")

    assert found.tolist() == [[0.0, pytest.approx(3 * (2 * norm.cdf(1.0) - 1)), -3.0]]


def test_standard_normal_points_are_uniform_in_the_box():
    points = torch.randn(50_000, 1, generator=seeded(0), dtype=torch.float64)

    latents = BoxLatentSpace(1).to_latents(points, "normal").flatten().sort().values

    # Kolmogorov's distance to the uniform distribution: above 1.95 / sqrt(n) once in a thousand.
    expected = torch.linspace(-2, 2, len(latents), dtype=torch.float64)
    assert (latents - expected).abs().max() / 4 < 1.95 / math.sqrt(50_000)


@pytest.mark.parametrize(
    ("space", "setting"), [(GaussianLatentSpace, "bound"), (BoxLatentSpace, "half_width")]
)
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "2", True])
def test_impossible_widths_are_refused(space, setting, value):
    with pytest.raises(ValueError, match=f"Expected {setting} > 0, got {setting}="):
        space(2, **{setting: value})


def test_the_tanh_space_squashes_into_the_open_cube():
    found = TanhLatentSpace(2).to_latents(torch.tensor([[0.0, 1.0]]), "normal")

    torch.testing.assert_close(found, torch.tensor([[0.0, math.tanh(1.0)]]))


def test_the_unit_view_of_the_tanh_space_is_linear():
    found = TanhLatentSpace(3).to_latents(POINTS, "unit")

    torch.testing.assert_close(found[0], torch.tensor([-1.0, -0.5, 0.0], dtype=torch.float64))


def test_the_raw_space_takes_points_as_they_are():
    points = torch.tensor([[1e3, -1e3]])

    assert torch.equal(RawLatentSpace(2).to_latents(points, "normal"), points)


def test_the_raw_space_has_no_unit_view():
    with pytest.raises(ValueError, match="Expected the view normal, got 'unit'"):
        RawLatentSpace(2).to_latents(torch.zeros(1, 2), "unit")
