import dataclasses

import pytest
import torch

from engine.attacks import Evaluation, GradientMatchingObjective, evaluate_together
from engine.attacks.distances import cosine, squared_l2
from engine.attacks.regularisers import prior
from engine.defenses import (
    Clipping,
    NoDefense,
    Sparsification,
)
from engine.errors import InputError
from engine.federation import Update, compute_update
from engine.federation.update import entries
from tests.attacks.conftest import CHAINS, PLANTED, latents_around
from tests.attacks.matching.oracle import losses
from tests.conftest import seeded

LABEL = torch.tensor([2])


def random_latents(candidates):
    return torch.randn(candidates, 3, generator=seeded(candidates))


@pytest.fixture(params=["none", "clipping", "sparsification"])
def defense(request):
    made = [NoDefense(), Clipping(max_norm=0.1), Sparsification(percent=70)]
    return {defense.name: defense for defense in made}[request.param]


@pytest.fixture(params=[squared_l2, cosine])
def planted(request, defense, knowledge, model, head, generator):
    """An objective whose minimiser is known: the latent that made the observed update."""
    client_update = compute_update(model, generator(PLANTED, LABEL), LABEL)
    observed = defense(client_update, client=None, rng=None)
    return GradientMatchingObjective(
        observed=observed,
        labels=(2,),
        knowledge=knowledge,
        imitate=defense.estimate(observed, head=head, published_code=False),
        distance=request.param,
        chunk_size=3,
    )


def test_the_planted_latent_has_no_loss(planted):
    torch.testing.assert_close(planted(PLANTED), torch.zeros(1), rtol=0, atol=1e-6)


def test_every_other_latent_is_worse(planted):
    others = planted(PLANTED + random_latents(32))

    assert (others > planted(PLANTED)).all()


@pytest.mark.parametrize("candidates", [1, 2, 3, 7])
def test_losses_equal_one_backward_pass_at_a_time(planted, candidates, model, generator):
    def loss_by_plain_autograd(latent):
        log_probabilities = model(generator(latent[None], LABEL)).log_softmax(1)[0]
        gradients = torch.autograd.grad(-log_probabilities[2], list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        update = type(planted.observed)(
            {name: tensor[None] for name, tensor in zip(names, gradients, strict=True)}
        )
        return planted.distance(planted.imitate(update), planted.observed)

    latents = random_latents(candidates)
    expected = torch.cat([loss_by_plain_autograd(latent) for latent in latents])
    torch.testing.assert_close(planted(latents), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7, 64])
def test_the_chunk_size_does_not_change_losses(planted, chunk_size):
    other = dataclasses.replace(planted, chunk_size=chunk_size)

    torch.testing.assert_close(other(random_latents(7)), planted(random_latents(7)))


def test_the_regulariser_is_added_with_its_weight(planted):
    latents = random_latents(5)
    regularised = dataclasses.replace(planted, regulariser=prior, regulariser_weight=0.25)

    expected = planted(latents) + 0.25 * latents.square().sum(1)

    torch.testing.assert_close(regularised(latents), expected)


def test_scoring_is_pure(planted, model):
    latents = random_latents(4)
    before = latents.clone()

    first, second = planted(latents), planted(latents)

    assert torch.equal(first, second)
    assert torch.equal(latents, before)
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_images_are_generated_in_the_attributed_class(planted, generator):
    latents = random_latents(2)

    images = planted.generate(latents)

    assert torch.equal(images, generator(latents, torch.tensor([2, 2])))
    assert not torch.equal(images, generator(latents, torch.tensor([1, 1])))


def test_unbatched_latents_are_refused(planted):
    with pytest.raises(InputError, match=r"Expected latents of shape \(C, d\), got \(3,\)"):
        planted(torch.zeros(3))


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("distance", [squared_l2, cosine])
@pytest.mark.parametrize("chain", CHAINS)
def test_losses_keep_their_digits_down_to_zero(make_objective, chain, distance, scale):
    objective = make_objective(chain, distance)
    latents = latents_around(scale)

    torch.testing.assert_close(objective(latents), losses(objective, latents), rtol=1e-5, atol=0)


@pytest.mark.parametrize("distance", [squared_l2, cosine])
@pytest.mark.parametrize("chain", ["none", "mask", "clipping"])
def test_losses_of_batches_are_those_of_their_mean_gradients(make_objective, chain, distance):
    objective = make_objective(chain, distance, labels=(2, 0, 1, 2))
    latents = latents_around(0.3, labels=4)

    torch.testing.assert_close(objective(latents), losses(objective, latents), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-3])
@pytest.mark.parametrize("distance", [squared_l2, cosine])
def test_single_precision_loses_no_more_than_one_candidate_at_a_time_does(
    make_objective, knowledge, distance, scale
):
    double = make_objective("none", distance)
    single = dataclasses.replace(
        double, observed=double.observed.map(torch.Tensor.float), knowledge=knowledge
    )
    latents = latents_around(scale, candidates=99)
    true = losses(double, latents)

    # Of many, and not the worst alone: which sums are added up in which order is the processor's.
    ours = ((single(latents.float()) - true) / true).square().mean().sqrt()
    alone = ((losses(single, latents.float()) - true) / true).square().mean().sqrt()

    assert ours <= max(1e-5, 3 * alone)
    assert (single(latents.float()) >= 0).all()


@pytest.mark.parametrize("chain", CHAINS)
def test_the_masked_scaling_of_an_imitation_is_the_imitation(make_objective, chain):
    objective = make_objective(chain)
    form = objective.imitate.masked_scaling()
    assert (form is None) == (chain == "clipping, then mask")
    if form is None:
        return
    latents = latents_around(0.5)
    updates = objective.matcher.updates(objective.generate(latents), torch.full((9,), 2))

    masked = Update({n: t * form.masks.get(n, 1.0) for n, t in updates.tensors.items()})
    scales = torch.ones_like(masked.squared_norms())
    if form.scale is not None:
        scales = form.scale(masked.squared_norms())

    expected = objective.imitate(updates)
    for scale, (name, tensor) in zip(scales.unbind(1), masked.tensors.items(), strict=True):
        found = (entries(tensor) * scale[:, None]).view_as(tensor)
        torch.testing.assert_close(found, expected.tensors[name])


def test_objectives_evaluated_together_give_what_each_gives_alone(make_objective):
    objectives = [
        make_objective("none"),
        make_objective("mask", cosine),
        make_objective("clipping, then mask"),
        make_objective("noise", labels=(1,), regulariser=prior, regulariser_weight=0.1),
    ]
    latents = [latents_around(0.5, candidates=n) for n in (9, 3, 12, 8)]

    together = evaluate_together(
        [Evaluation(*pair) for pair in zip(objectives, latents, strict=True)]
    )

    for found, objective, some in zip(together, objectives, latents, strict=True):
        torch.testing.assert_close(found.losses, objective(some), rtol=1e-12, atol=0)
        assert found.details is None


@pytest.mark.parametrize(
    ("chain", "published_code", "path"),
    [
        ("none", False, "kernels"),
        ("mask", False, "kernels"),
        ("mask", True, "one update a candidate: the estimated defense needs them: the smallest"),
        ("clipping, then mask", False, "one update a candidate: the estimated defense needs them"),
    ],
)
def test_the_path_taken_is_said(make_objective, chain, published_code, path):
    assert make_objective(chain, published_code=published_code).path.startswith(path)


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda images: 2 * images - 1, r"from -"),
        (lambda images: images + 0.5, r"to 1\."),
        (lambda images: images[:, 0], r"got shape \(1, \d+, \d+\)"),
        (lambda images: images * float("nan"), "nan"),
    ],
)
def test_a_generator_whose_images_do_not_fit_is_refused(planted, knowledge, generator, spoil, got):
    spoiled = dataclasses.replace(
        knowledge, generate=lambda latents, labels: spoil(generator(latents, labels))
    )

    with pytest.raises(InputError, match=got):
        dataclasses.replace(planted, knowledge=spoiled)(random_latents(2))


@pytest.mark.parametrize("regulariser", [None, prior])
@pytest.mark.parametrize("distance", [squared_l2, cosine])
@pytest.mark.parametrize("chain", CHAINS)
def test_gradients_by_the_latent_are_those_of_differences(
    make_objective, chain, distance, regulariser
):
    changes = {"regulariser": regulariser, "regulariser_weight": 0.1} if regulariser else {}
    objective = make_objective(chain, distance, **changes)
    latents = latents_around(0.5, candidates=8)

    losses, gradients = objective.scores(latents, "gradients")

    torch.testing.assert_close(losses, objective(latents))
    step = 1e-5
    for place in range(3):
        away = torch.zeros_like(latents)
        away[:, place] = step
        slope = (objective(latents + away) - objective(latents - away)) / (2 * step)
        torch.testing.assert_close(gradients[:, place], slope, rtol=1e-4, atol=1e-7)


def test_gradients_of_batches_are_by_all_of_their_images(make_objective):
    objective = make_objective("none", labels=(2, 0))
    latents = latents_around(0.3, labels=2, candidates=8)

    _, gradients = objective.scores(latents, "gradients")

    assert gradients.shape == (8, 6)
    assert (gradients.abs().amax(0) > 0).all()
