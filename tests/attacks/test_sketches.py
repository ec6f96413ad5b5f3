import dataclasses
import math

import pytest
import torch

from engine.attacks import Evaluation, evaluate_together
from engine.attacks import objective as objective_module
from engine.attacks import sketches as sketches_module
from engine.attacks.distances import cosine, squared_l2
from engine.attacks.regularisers import prior
from engine.attacks.sketches import Sketch
from engine.federation import Update
from tests.attacks.conftest import CHAINS, latents_around
from tests.conftest import seeded


def updates_of(objective, latents):
    """Returns candidates' updates behind the imitated defense, one pass a candidate."""
    return [
        objective.imitate(
            objective.matcher.updates(objective.generate(latent[None]), torch.tensor([2]))
        )
        for latent in latents
    ]


@pytest.mark.parametrize("distance", [squared_l2, cosine])
@pytest.mark.parametrize("chain", CHAINS)
def test_squared_distances_of_sketches_are_distances_of_updates(make_objective, chain, distance):
    objective = make_objective(chain, distance)
    latents = latents_around(0.5)

    sketches = objective.scores(latents, "sketches").details

    updates = updates_of(objective, latents)
    for place in (1, 4, 8):
        expected = distance(updates[place], updates[0])
        found = (sketches[place] - sketches[0]).square().sum()
        torch.testing.assert_close(found, expected[0], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("chain", CHAINS)
def test_losses_are_the_same_with_and_without_sketches(make_objective, chain):
    objective = make_objective(chain, regulariser=prior, regulariser_weight=0.1)
    latents = latents_around(0.5)

    sketched, plain = objective.scores(latents, "sketches"), objective.scores(latents)

    torch.testing.assert_close(sketched.losses, plain.losses, rtol=1e-9, atol=0)
    assert plain.details is None


def test_the_prior_is_part_of_the_sketch_as_it_is_of_the_loss(make_objective):
    objective = make_objective("none")
    weighted = dataclasses.replace(objective, regulariser=prior, regulariser_weight=0.25)
    latents = latents_around(0.5)

    plain = objective.scores(latents, "sketches").details
    found = weighted.scores(latents, "sketches").details

    torch.testing.assert_close(found[:, : plain.shape[1]], plain)
    torch.testing.assert_close(found[:, plain.shape[1] :], 0.5 * latents)


def test_sketches_of_batches_are_those_of_their_mean_gradients(make_objective):
    objective = make_objective("none", labels=(2, 0, 1))
    latents = latents_around(0.3, labels=3)

    sketches = objective.scores(latents, "sketches").details

    updates = objective.matcher.updates(
        objective.generate(latents), objective.decoder.labels(latents)
    )
    flat = torch.cat([tensor.flatten(1) for tensor in updates.tensors.values()], 1)
    expected = (flat - flat[0]).square().sum(1) / len(updates.tensors)
    torch.testing.assert_close((sketches - sketches[0]).square().sum(1), expected)


def test_searches_that_want_different_things_are_evaluated_together(make_objective):
    objectives = [make_objective(name) for name in ("none", "mask", "noise", "clipping")]
    latents = [latents_around(0.5, candidates=n) for n in (9, 3, 12, 5)]
    wanted = ["sketches", None, "sketches", "gradients"]

    together = evaluate_together(
        [Evaluation(*each) for each in zip(objectives, latents, wanted, strict=True)]
    )

    for found, objective, some, kind in zip(together, objectives, latents, wanted, strict=True):
        alone = objective.scores(some, kind)
        torch.testing.assert_close(found.losses, alone.losses, rtol=1e-12, atol=0)
        assert found.losses.shape == (len(some),)
        assert (found.details is None) == (kind is None)
        if kind:
            torch.testing.assert_close(found.details, alone.details, rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk_size", [8, 9, 64])
def test_the_chunk_size_does_not_change_sketches(make_objective, chunk_size):
    objective = make_objective("none")
    latents = latents_around(0.5, candidates=20)

    chunked = dataclasses.replace(objective, chunk_size=chunk_size)

    torch.testing.assert_close(
        chunked.scores(latents, "sketches").details,
        objective.scores(latents, "sketches").details,
    )


def test_many_entries_fold_into_few_numbers_and_keep_distances_about_the_same():
    tensors = {
        "a": torch.randn(40, 30, 100, generator=seeded(1), dtype=torch.float64),
        "b": torch.randn(40, 501, generator=seeded(2), dtype=torch.float64),
    }
    sketch = Sketch.of(Update({name: some[:1] for name, some in tensors.items()}), largest=10**6)

    found = sketch(tensors, torch.ones(40, 2, dtype=torch.float64))

    assert found.shape == (40, sketches_module.SIZE)
    whole = torch.cat([tensors["a"].flatten(1), tensors["b"]], 1)
    ratios = (found[1:] - found[0]).square().sum(1) / (whole[1:] - whole[0]).square().sum(1)
    error = math.sqrt(2 / sketches_module.SIZE)
    assert abs(ratios.mean() - 1) < error
    assert ratios.std() < 2 * error


def test_a_sketch_is_linear():
    tensors = {"a": torch.randn(3, 2000, generator=seeded(1))}
    sketch = Sketch.of(Update({"a": tensors["a"][:1]}), largest=10**6)
    ones = torch.ones(3, 1)

    doubled = sketch({"a": 2 * tensors["a"]}, ones)

    torch.testing.assert_close(doubled, 2 * sketch(tensors, ones))
    torch.testing.assert_close(doubled, sketch(tensors, 2 * ones))


@pytest.mark.parametrize("chain", CHAINS)
def test_large_tensors_are_left_out_and_made_up_for(make_objective, chain, monkeypatch):
    whole = make_objective(chain)
    latents = latents_around(0.5, candidates=12)
    expected = whole.scores(latents, "sketches").details
    monkeypatch.setattr(objective_module, "SMALL", 27)

    part = make_objective(chain)
    found = part.scores(latents, "sketches").details

    sizes = {name: tensor[0].numel() for name, tensor in part.observed.tensors.items()}
    assert set(part._sketch.names) == {name for name, size in sizes.items() if size <= 27}
    assert found.shape[1] < expected.shape[1]
    # As long as whole ones at the middle of the prior, by which they were measured.
    middle = torch.zeros(8, 3, dtype=torch.float64)
    torch.testing.assert_close(
        part.scores(middle, "sketches").details.square().sum(1),
        whole.scores(middle, "sketches").details.square().sum(1),
        rtol=1e-6,
        atol=0,
    )
    torch.testing.assert_close(part(latents), whole(latents))


def test_where_all_tensors_are_large_the_smallest_is_seen():
    update = Update({"a": torch.zeros(1, 300), "b": torch.zeros(1, 200), "c": torch.zeros(1, 200)})

    assert Sketch.of(update, largest=10).names == ("b", "c")
