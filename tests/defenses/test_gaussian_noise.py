import pytest
import torch

from engine.defenses import GaussianNoise
from engine.defenses.base import Unchanged
from engine.errors import PlanError
from engine.federation import Update
from tests.conftest import seeded

ENTRIES = 40_000


def noise_of(std, seed):
    zeros = Update({"a": torch.zeros(1, ENTRIES), "b": torch.zeros(1, ENTRIES)})
    return GaussianNoise(std)(zeros, client=None, rng=seeded(seed))


def test_noise_has_its_stated_deviation_and_no_mean():
    noise = noise_of(0.3, seed=0).tensors["a"]

    # Five standard errors of the deviation and of the mean.
    assert float(noise.std()) == pytest.approx(0.3, abs=5 * 0.3 / (2 * ENTRIES) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0, abs=5 * 0.3 / ENTRIES**0.5)


def test_noise_is_normal():
    noise = noise_of(2.0, seed=1).tensors["a"].abs() / 2

    for deviations, share in [(1, 0.6827), (2, 0.9545), (3, 0.9973)]:
        assert float((noise < deviations).float().mean()) == pytest.approx(share, abs=0.012)


def test_noise_is_added_to_every_entry_independently():
    noise = noise_of(0.1, seed=2)

    correlation = torch.corrcoef(torch.cat([noise.tensors["a"], noise.tensors["b"]]))[0, 1]
    assert abs(float(correlation)) < 5 / ENTRIES**0.5
    assert (noise.tensors["a"] != 0).all()


def test_noise_is_added_to_the_update_itself(observed):
    defended = GaussianNoise(0.1)(observed, client=None, rng=seeded(3))
    noise = GaussianNoise(0.1)(observed.map(torch.zeros_like), client=None, rng=seeded(3))

    for name, tensor in observed.tensors.items():
        torch.testing.assert_close(defended.tensors[name], tensor + noise.tensors[name])


def test_clients_get_noise_of_their_own():
    noise = GaussianNoise(1.0)(Update({"a": torch.zeros(2, 50)}), client=None, rng=seeded(0))

    assert not torch.equal(noise.tensors["a"][0], noise.tensors["a"][1])


def test_different_seeds_give_different_noise():
    assert not torch.equal(noise_of(0.1, 0).tensors["a"], noise_of(0.1, 1).tensors["a"])


def test_the_deviation_is_estimated_from_the_observed_update(head):
    observed = noise_of(0.25, seed=4)

    imitation = GaussianNoise.estimate(observed, head=head, published_code=False)

    assert imitation.noise_std == pytest.approx(0.25, rel=0.02)
    assert str(imitation) == f"noise of a standard deviation of {imitation.noise_std:.3g}"


def test_a_few_large_entries_do_not_spoil_the_estimate(head):
    noise = noise_of(0.25, seed=5)
    spiked = noise.map(lambda tensor: torch.where(torch.arange(ENTRIES) < 400, 1e3, tensor))

    imitation = GaussianNoise.estimate(spiked, head=head, published_code=False)

    assert imitation.noise_std == pytest.approx(0.25, rel=0.04)


def test_candidates_are_left_alone(head, observed, update):
    imitation = GaussianNoise.estimate(observed, head=head, published_code=False)

    assert imitation(update) is update


def test_the_published_code_estimates_no_noise(head, observed):
    imitation = GaussianNoise.estimate(observed, head=head, published_code=True)

    assert imitation == Unchanged(noise_std=0.0)


@pytest.mark.parametrize("std", [0, -0.1, float("nan"), "0.1"])
def test_impossible_deviations_are_refused(std):
    with pytest.raises(PlanError, match="Expected std > 0"):
        GaussianNoise(std=std)
