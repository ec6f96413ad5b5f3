import pytest
import torch

from engine.defenses import (
    DEFENSES,
    ClientContext,
    Clipping,
    GaussianNoise,
    NoDefense,
    Soteria,
    Sparsification,
    apply_defenses,
    estimate_imitations,
    label_defenses,
)
from engine.errors import PlanError
from engine.federation import Update
from tests.conftest import seeded

# Its norm is 5; pruned at 50 % it is 4.
UPDATE = Update({"w": torch.tensor([[3.0, 4.0, 0.0, 0.0]])})


def apply(chain, update=UPDATE, seed=0):
    client = ClientContext(None, None, None, None)
    return apply_defenses(chain, update, client=client, rng=seeded(seed)).tensors["w"]


def test_no_defense_returns_the_update_as_it_is():
    assert apply([]) is UPDATE.tensors["w"]
    assert apply([NoDefense()]) is UPDATE.tensors["w"]


def test_defenses_are_applied_in_their_order():
    clipped_last = apply([Sparsification(percent=99), Clipping(max_norm=2)])
    clipped_first = apply([Clipping(max_norm=2), Sparsification(percent=99)])

    torch.testing.assert_close(clipped_last, torch.tensor([[0.0, 2.0, 0.0, 0.0]]))
    torch.testing.assert_close(clipped_first, torch.tensor([[0.0, 1.6, 0.0, 0.0]]))


def test_one_random_stream_runs_through_the_chain():
    twice = apply([GaussianNoise(1.0), GaussianNoise(1.0)])
    once = apply([GaussianNoise(1.0)])

    assert not torch.allclose(twice - once, once - UPDATE.tensors["w"])


def test_imitations_are_applied_in_their_order(head):
    observed = Update({"w": torch.tensor([[0.0, 2.0, 0.0, 0.0]])})

    imitation = estimate_imitations(["sparsification", "clipping"], observed, head=head)

    torch.testing.assert_close(imitation(UPDATE).tensors["w"], torch.tensor([[0.0, 2.0, 0.0, 0.0]]))
    assert str(imitation) == (
        "known zero mask, 25.0% of the entries kept, then clipped to a norm of 2"
    )


def test_the_order_of_imitations_matters(head):
    observed = Update({"w": torch.tensor([[0.0, 2.0, 0.0, 0.0]])})

    imitation = estimate_imitations(["clipping", "sparsification"], observed, head=head)

    torch.testing.assert_close(imitation(UPDATE).tensors["w"], torch.tensor([[0.0, 1.6, 0.0, 0.0]]))


def test_the_noise_of_a_chain_is_the_largest_estimate_of_its_parts(head):
    observed = Update({"w": 0.5 * torch.randn(1, 10_000, generator=seeded(0))})

    imitation = estimate_imitations(["clipping", "gaussian_noise"], observed, head=head)

    assert imitation.noise_std == pytest.approx(0.5, rel=0.05)


def test_published_code_reaches_every_part(head):
    observed = Update({"w": torch.tensor([[0.0, 2.0, 0.0, 0.0]])})

    imitation = estimate_imitations(
        ["gaussian_noise", "sparsification"], observed, head=head, published_code=True
    )

    assert imitation.noise_std == 0
    assert str(imitation) == (
        "nothing to imitate, then the smallest 75.0% of each tensor pruned again"
    )


def test_an_attacker_who_expects_nothing_imitates_nothing(head):
    imitation = estimate_imitations([], UPDATE, head=head)

    assert torch.equal(imitation(UPDATE).tensors["w"], UPDATE.tensors["w"])
    assert imitation.noise_std == 0
    assert str(imitation) == "nothing to imitate"


def test_unknown_kinds_are_refused(head):
    with pytest.raises(PlanError, match=r"Unknown defense 'cliping'.* Did you mean 'clipping'"):
        estimate_imitations(["cliping"], UPDATE, head=head)


def test_chains_are_labelled_as_a_reader_sees_them():
    chain = [Clipping(max_norm=4.0), Sparsification(percent=90), NoDefense(), Soteria(percent=80)]

    assert label_defenses(chain) == (
        "clipping(max_norm=4) + sparsification(percent=90) + none"
        " + soteria(percent=80, version=ggl)"
    )


def test_every_defense_has_a_name_and_a_summary():
    for name, summary in DEFENSES.summaries().items():
        assert DEFENSES.get(name).name == name
        assert summary.endswith(".")


def gaussian_update(entries=20_000, *, norm=3.0):
    values = torch.randn(1, entries, generator=torch.Generator().manual_seed(0))
    return Update({"weight": values / values.norm() * norm})


def test_a_clipping_bound_is_estimated_through_the_noise_that_came_after_it(head):
    rng = torch.Generator().manual_seed(1)
    chain = [Clipping(max_norm=1.0), GaussianNoise(std=0.1)]

    observed = apply_defenses(chain, gaussian_update(), client=None, rng=rng)

    assert float(observed.l2_norms()) > 14
    imitation = estimate_imitations(["clipping", "gaussian_noise"], observed, head=head)
    clipped = imitation(gaussian_update(norm=50.0))
    assert float(clipped.l2_norms()) < 3


def test_a_bound_set_after_the_noise_is_the_observed_norm(head):
    rng = torch.Generator().manual_seed(1)
    chain = [GaussianNoise(std=0.1), Clipping(max_norm=1.0)]

    observed = apply_defenses(chain, gaussian_update(), client=None, rng=rng)

    imitation = estimate_imitations(["gaussian_noise", "clipping"], observed, head=head)
    clipped = imitation(gaussian_update(norm=50.0))
    assert float(clipped.l2_norms()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("percent", [0, 50, 90])
def test_noise_is_estimated_through_the_pruning_that_came_after_it(percent, head):
    rng = torch.Generator().manual_seed(1)
    chain = [GaussianNoise(std=0.1), Sparsification(percent=percent)]

    observed = apply_defenses(chain, gaussian_update(norm=0.1), client=None, rng=rng)

    imitation = estimate_imitations(["gaussian_noise", "sparsification"], observed, head=head)
    assert imitation.noise_std == pytest.approx(0.1, rel=0.03)
