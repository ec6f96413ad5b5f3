import numpy as np
import pytest
import torch

from engine.attacks import History, Scores, run_search
from engine.attacks.searchers import make_searcher
from engine.attacks.searchers.base import DetailSearcher
from engine.attacks.searchers.curvature import fit_model
from engine.attacks.searchers.gauss_newton_searcher import DESCENT, STEPS
from search_spaces import GaussianLatentSpace

DIM = 8
SPACE = GaussianLatentSpace(DIM)


class LeastSquares:
    """A loss that is the squared distance of an update, here a function of the latent, to another.

    Args:
        update: Latents ``(C, d)`` to updates ``(C, m)``.
        observed: The update to be matched, ``(m,)``.
    """

    def __init__(self, update, observed):
        self.update, self.observed = update, observed

    def __call__(self, latents):
        return (self.update(latents) - self.observed).square().sum(1)

    def scores(self, latents, wanted):
        return Scores(self(latents), self.update(latents) if wanted else None)


def linear(condition=100.0, noise=0.0):
    """A linear update of a planted latent, some of whose directions change it far more."""
    rng = np.random.default_rng(4)
    rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    matrix = rotation * np.geomspace(1, condition**0.5, DIM) @ rng.standard_normal((DIM, 40))
    planted = torch.from_numpy(rng.standard_normal(DIM)).float()
    slope = torch.from_numpy(matrix).float()
    rest = torch.from_numpy(noise * rng.standard_normal(40)).float()
    return LeastSquares(lambda latents: latents @ slope, planted @ slope + rest)


def curved():
    """An update that saturates."""
    plain = linear()
    return LeastSquares(lambda latents: torch.tanh(plain.update(latents) / 4), plain.observed / 8)


def search(objective, name="gauss_newton", budget=400, seed=0, known=None, **settings):
    searcher = make_searcher(name, dim=DIM, budget=budget, seed=seed, **settings)
    return run_search(
        objective,
        searcher,
        SPACE,
        budget=budget,
        population=searcher.preferred_population,
        known=known,
    )


def test_a_linear_update_is_inverted_in_a_few_generations():
    objective = linear()

    found = search(objective, budget=100)

    assert found.loss < 1e-6 * np.median(found.losses[:20])
    assert search(objective, "sepcma", budget=100).loss > 1e3 * found.loss


def test_what_cannot_be_matched_does_not_keep_it_from_the_least_loss():
    objective = linear(noise=3.0)
    latent, *_ = np.linalg.lstsq(
        objective.update(torch.eye(DIM)).numpy().T, objective.observed.numpy(), rcond=None
    )
    least = float(objective(torch.from_numpy(latent)[None]))

    found = search(objective, budget=200)

    assert least > 1
    assert found.loss == pytest.approx(least, rel=1e-4)


def test_a_curved_update_is_matched_better_than_by_losses_alone():
    budget = 150
    pairs = [
        (search(curved(), budget=budget, seed=s), search(curved(), "sepcma", budget=budget, seed=s))
        for s in range(5)
    ]

    assert all(ours.loss < theirs.loss for ours, theirs in pairs)


def test_the_model_of_a_linear_update_is_exact():
    objective = linear(noise=2.0)
    points = np.random.default_rng(0).standard_normal((60, DIM))
    latents = torch.from_numpy(points).float()

    model = fit_model(
        points,
        objective(latents).double().numpy(),
        objective.update(latents).numpy(),
        before=None,
    )

    slope = objective.update(torch.eye(DIM)).double().numpy()
    away = objective.update(latents[:1])[0].double().numpy() - objective.observed.double().numpy()
    curvature = model.basis * model.curvatures @ model.basis.T
    np.testing.assert_allclose(curvature, slope @ slope.T, rtol=0.01, atol=0.5)
    np.testing.assert_allclose(
        model.basis @ model.gradient, slope @ away, rtol=0.02, atol=0.02 * abs(slope @ away).max()
    )


def test_stronger_damping_makes_shorter_steps():
    objective = linear()
    points = np.random.default_rng(0).standard_normal((40, DIM))
    latents = torch.from_numpy(points).float()
    losses = objective(latents).double().numpy()
    model = fit_model(points, losses, objective.update(latents).numpy(), before=None)

    lengths = np.linalg.norm(model.steps(np.array([0.01, 1, 100])) - model.centre, axis=1)

    assert lengths[0] > lengths[1] > lengths[2]


def test_samples_are_never_wider_than_asked():
    objective = linear()
    points = np.random.default_rng(0).standard_normal((40, DIM))
    latents = torch.from_numpy(points).float()
    losses = objective(latents).double().numpy()
    model = fit_model(points, losses, objective.update(latents).numpy(), before=None)

    assert (model.deviations(1.0, 0.7) <= 0.7).all()


def wanted(budget):
    """Returns for every generation whether sketches were wanted, and a generation's size."""
    objective = linear()
    searcher = make_searcher("gauss_newton", dim=DIM, budget=budget, seed=0)
    size, seen = searcher.preferred_population, []
    for _ in range(budget // size):
        seen.append(searcher.wants == "sketches")
        points = searcher.ask(size)
        found = objective.scores(torch.from_numpy(points).float(), "sketches" if seen[-1] else None)
        losses = found.losses.double().numpy()
        if seen[-1]:
            searcher.tell_details(points, losses, found.details.numpy())
        else:
            searcher.tell(points, losses)
    return seen, size


def test_sketches_are_wanted_in_the_first_phase_of_every_descent():
    seen, size = wanted(2 * DESCENT * DIM)

    first = -(-STEPS * DIM // size)
    assert seen[:first] == [True] * first
    assert not seen[first]
    assert True in seen[first:]


def test_it_is_a_searcher_that_learns_from_sketches():
    assert isinstance(make_searcher("gauss_newton", dim=2, budget=1, seed=0), DetailSearcher)
    assert not isinstance(make_searcher("sepcma", dim=2, budget=1, seed=0), DetailSearcher)


@pytest.mark.parametrize("population", [1, 3, 8, 50])
def test_any_population_descends(population):
    found = search(linear(), budget=300, population=population)

    assert found.loss < 1e-2 * np.median(found.losses[:20])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_candidates_without_a_finite_loss_are_learnt_nothing_from(bad):
    class Hurt(LeastSquares):
        def __call__(self, latents):
            return torch.where(latents[:, 0] > 0.5, bad, super().__call__(latents))

        def scores(self, latents, wanted):
            updates = self.update(latents)
            return Scores(self(latents), torch.where(latents[:, :1] > 0.5, bad, updates))

    plain = linear()
    hurt = Hurt(plain.update, plain.observed)

    found = search(hurt, budget=200)

    assert found.nonfinite > 0
    assert np.isfinite(found.loss)
    assert found.loss < 0.1 * np.nanmedian(found.losses[:20])


def test_nothing_but_losses_that_are_not_finite_ends_without_an_error():
    class Nothing(LeastSquares):
        def __call__(self, latents):
            return torch.full((len(latents),), float("nan"))

        def scores(self, latents, wanted):
            return Scores(self(latents), torch.full((len(latents), 40), float("nan")))

    plain = linear()

    found = search(Nothing(plain.update, plain.observed), budget=200)

    assert found.latent is None
    assert found.nonfinite == 200


def test_a_constant_objective_ends_without_an_error():
    flat = LeastSquares(lambda latents: torch.ones(len(latents), 40), torch.zeros(40))

    assert search(flat, budget=300).loss == 40


@pytest.mark.parametrize("known", [0, 20, 33, 120, 300, 400])
def test_a_resumed_search_equals_an_uninterrupted_one(known):
    sketches, evaluated = [], []
    objective = curved()

    class Counted(LeastSquares):
        def __call__(self, latents):
            evaluated.append(len(latents))
            return super().__call__(latents)

    searcher = make_searcher("gauss_newton", dim=DIM, budget=400, seed=0)
    population = searcher.preferred_population
    whole = run_search(
        objective,
        searcher,
        SPACE,
        budget=400,
        population=population,
        on_batch=lambda p: sketches.append(p.details) if p.details is not None else None,
    )
    history = History(whole.losses[:known], np.concatenate(sketches)[:known])

    resumed = search(Counted(objective.update, objective.observed), known=history)

    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert torch.equal(resumed.latent, whole.latent)
    assert sum(evaluated) == 400 - (known // population * population if known < 400 else 400)


def test_without_the_sketches_of_a_history_the_search_starts_again():
    whole = search(curved())

    resumed = search(curved(), known=History(whole.losses[:200]))

    np.testing.assert_array_equal(resumed.losses, whole.losses)


def test_told_losses_alone_it_still_descends():
    searcher = make_searcher("gauss_newton", dim=DIM, budget=600, seed=0)
    first = None
    for _ in range(30):
        points = searcher.ask(searcher.preferred_population)
        losses = ((points - 0.7) ** 2).sum(1)
        first = losses.min() if first is None else first
        searcher.tell(points, losses)

    assert losses.min() < 0.01 * first
