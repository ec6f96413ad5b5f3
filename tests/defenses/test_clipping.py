import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.defenses import Clipping, ClippingPerLayer
from engine.defenses.clipping import ClippedPerLayerTo, ClippedTo
from engine.errors import PlanError
from engine.federation import Update
from tests.conftest import seeded

# Norms of the two clients: 5 and 13 together; (3, 4) and (5, 12) by tensor.
UPDATE = Update(
    {"w": torch.tensor([[[3.0], [0.0]], [[0.0], [-5.0]]]), "b": torch.tensor([[4.0], [12.0]])}
)


def clip(defense, update):
    return defense(update, client=None, rng=None)


def test_a_client_outside_the_ball_is_scaled_onto_it_as_a_whole():
    clipped = clip(Clipping(max_norm=6.5), UPDATE)

    torch.testing.assert_close(clipped.tensors["w"][1], torch.tensor([[0.0], [-2.5]]))
    torch.testing.assert_close(clipped.tensors["b"][1], torch.tensor([6.0]))


def test_a_client_inside_the_ball_keeps_its_values():
    clipped = clip(Clipping(max_norm=6.5), UPDATE)

    assert torch.equal(clipped.tensors["w"][0], UPDATE.tensors["w"][0])
    assert torch.equal(clipped.tensors["b"][0], UPDATE.tensors["b"][0])


def test_the_scale_is_that_of_the_published_code_epsilon_included():
    update = Update({"w": torch.tensor([[2e-6]], dtype=torch.float64)})

    clipped = clip(Clipping(max_norm=1e-6), update)

    assert clipped.tensors["w"].item() == pytest.approx(2e-6 * 1e-6 / (2e-6 + 1e-6))


def test_per_layer_every_tensor_has_a_ball_of_its_own():
    clipped = clip(ClippingPerLayer(max_norm=4.5), UPDATE)

    assert clipped.tensors["w"][0].flatten().tolist() == [3.0, 0.0]
    assert clipped.tensors["b"][0].tolist() == [4.0]
    torch.testing.assert_close(clipped.tensors["w"][1].flatten(), torch.tensor([0.0, -4.5]))
    torch.testing.assert_close(clipped.tensors["b"][1], torch.tensor([4.5]))


@pytest.mark.parametrize("defense", [Clipping(max_norm=1.0), ClippingPerLayer(max_norm=1.0)])
def test_an_update_of_zeros_stays_one(defense):
    clipped = clip(defense, UPDATE.map(torch.zeros_like))

    assert all((tensor == 0).all() for tensor in clipped.tensors.values())


@given(
    entries=st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    max_norm=st.floats(0.1, 200),
    per_layer=st.booleans(),
)
def test_clipping_twice_is_clipping_once(entries, max_norm, per_layer):
    row = torch.tensor([entries], dtype=torch.float64)
    update = Update({"a": row[:, :2], "b": row[:, 2:]})
    defense = ClippingPerLayer(max_norm) if per_layer else Clipping(max_norm)

    once = clip(defense, update)
    twice = clip(defense, once)

    for name, tensor in once.tensors.items():
        torch.testing.assert_close(twice.tensors[name], tensor, rtol=2e-5, atol=1e-9)
    bounded = once.squared_norms().sqrt() if per_layer else once.l2_norms()
    assert (bounded <= max_norm * (1 + 1e-12)).all()


def test_the_bound_is_estimated_from_the_observed_norm_alone(head, observed):
    defended = clip(Clipping(max_norm=0.25), observed)

    imitation = Clipping.estimate(defended, head=head, published_code=False)

    assert imitation == ClippedTo(pytest.approx(0.25, rel=1e-4))
    assert imitation.noise_std == 0
    assert str(imitation) == "clipped to a norm of 0.25"


def test_the_estimate_of_a_clipping_that_did_not_bind_is_the_updates_own_norm(head, observed):
    defended = clip(Clipping(max_norm=1e6), observed)

    imitation = Clipping.estimate(defended, head=head, published_code=True)

    flat = torch.cat([tensor.flatten() for tensor in observed.tensors.values()])
    assert imitation.max_norm == pytest.approx(math.sqrt(float(flat.double().square().sum())))


def test_the_per_layer_bounds_are_estimated_each_from_its_tensor(head, observed):
    defended = clip(ClippingPerLayer(max_norm=0.1), observed)

    imitation = ClippingPerLayer.estimate(defended, head=head, published_code=False)

    norms = [float(tensor.norm()) for tensor in defended.tensors.values()]
    assert imitation == ClippedPerLayerTo(tuple(pytest.approx(norm) for norm in norms))
    assert f"{min(norms):.3g} to {max(norms):.3g}" in str(imitation)


def test_the_per_layer_imitation_scales_each_tensor_to_its_own_bound():
    imitated = ClippedPerLayerTo((1.0, 6.0))(UPDATE)

    torch.testing.assert_close(imitated.tensors["w"].flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(imitated.tensors["b"].flatten(), torch.tensor([4.0, 6.0]))


@pytest.mark.parametrize("defense", [Clipping(max_norm=0.3), ClippingPerLayer(max_norm=0.05)])
def test_the_imitation_takes_the_client_update_to_the_observed_one(defense, head, observed):
    defended = clip(defense, observed)

    imitated = defense.estimate(defended, head=head, published_code=False)(observed)

    for name, tensor in defended.tensors.items():
        torch.testing.assert_close(imitated.tensors[name], tensor, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("max_norm", [0, -1, math.nan, math.inf, True, "4", None])
@pytest.mark.parametrize("kind", [Clipping, ClippingPerLayer])
def test_impossible_bounds_are_refused(kind, max_norm):
    with pytest.raises(PlanError, match="Expected max_norm > 0, got max_norm="):
        kind(max_norm=max_norm)


def test_many_clients_are_clipped_each_by_its_own_norm():
    update = Update({"w": torch.randn(6, 4, 3, generator=seeded(0), dtype=torch.float64)})

    clipped = clip(Clipping(max_norm=2.5), update)

    for row, mine in zip(update.tensors["w"], clipped.tensors["w"], strict=True):
        expected = row * min(1.0, 2.5 / (math.sqrt(sum(x**2 for x in row.flatten().tolist()))))
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=0)
