import dataclasses

import pytest
import torch

from engine.attacks import GradientMatchingObjective
from engine.attacks.distances import cosine, squared_l2
from engine.attacks.regularisers import prior
from engine.defenses import Clipping, NoDefense, Sparsification
from engine.errors import InputError
from engine.federation import compute_update
from tests.conftest import seeded

PLANTED = torch.tensor([[0.3, -0.7, 0.9]])
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
