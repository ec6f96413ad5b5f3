import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from engine.attacks import History, run_search
from engine.attacks.search import tellable
from engine.attacks.searchers import make_searcher
from engine.errors import AuditError
from search_spaces import GaussianLatentSpace
from search_spaces.latent_spaces import RawLatentSpace

SPACE = GaussianLatentSpace(2)
INF, NAN = float("inf"), float("nan")


class Recorder:
    """Asks the integers in turn and notes what it is told."""

    view = "normal"
    preferred_population = 4

    def __init__(self):
        self.asked, self.told = 0, []

    def ask(self, candidates):
        points = np.arange(self.asked, self.asked + candidates, dtype=np.float64)
        self.asked += candidates
        return np.stack([points, np.zeros(candidates)], axis=1)

    def tell(self, points, losses):
        assert len(points) == len(losses)
        assert losses.dtype == np.float64
        self.told.append(losses.copy())


class Scripted:
    """An objective whose losses are given in advance."""

    def __init__(self, losses):
        self.losses, self.spent, self.batches = losses, 0, []

    def __call__(self, latents):
        batch = self.losses[self.spent : self.spent + len(latents)]
        self.spent += len(latents)
        self.batches.append(len(latents))
        return torch.tensor(batch)


def scripted_search(losses, population=4):
    searcher, objective, seen = Recorder(), Scripted(losses), []
    result = run_search(
        objective,
        searcher,
        RawLatentSpace(2),
        budget=len(losses),
        population=population,
        on_batch=seen.append,
    )
    return result, searcher, objective, seen


def bowl(latents):
    return (latents - 0.4).square().sum(1)


@pytest.mark.parametrize(
    ("budget", "population", "batches"),
    [(12, 4, [4, 4, 4]), (10, 4, [4, 4, 2]), (3, 4, [3]), (1, 64, [1]), (5, 1, [1] * 5)],
)
def test_spends_exactly_the_budget(budget, population, batches):
    result, searcher, objective, seen = scripted_search([1.0] * budget, population)

    assert objective.batches == batches
    assert searcher.asked == budget
    assert [len(losses) for losses in searcher.told] == batches
    assert [progress.evaluations for progress in seen] == list(np.cumsum(batches))
    assert result.losses.shape == (budget,)
    assert result.losses.dtype == np.float32


def test_the_best_is_the_lowest_loss_of_all_batches():
    result, _, _, seen = scripted_search([5.0, 4, 6, 7, 3, 2, 9, 8, 2.5, 4])

    assert result.loss == 2.0
    assert result.latent.tolist() == [[5.0, 0.0]]
    assert [progress.best_loss for progress in seen] == [4.0, 2.0, 2.0]
    assert [progress.best_latent.tolist() for progress in seen] == [
        [[1.0, 0.0]],
        [[5.0, 0.0]],
        [[5.0, 0.0]],
    ]


def test_the_first_of_equal_losses_is_best():
    result, *_ = scripted_search([2.0, 1.0, 1.0, 3.0, 1.0])

    assert result.latent.tolist() == [[1.0, 0.0]]


def test_losses_are_told_as_they_are():
    _, searcher, *_ = scripted_search([5.0, 4.0, 6.0, 7.0, 3.0])

    assert [losses.tolist() for losses in searcher.told] == [[5.0, 4.0, 6.0, 7.0], [3.0]]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "losses",
    [
        [3.0, None, 2.0, 4.0],
        [None, 3.0, 2.0, 4.0],
        [3.0, 2.0, 4.0, 5.0, None, None, None, None, 4.0],
        [None, None, None, None, 2.0],
    ],
)
def test_losses_that_are_not_finite_are_never_told_never_best_and_counted(bad, losses):
    filled = [bad if loss is None else loss for loss in losses]

    result, searcher, _, seen = scripted_search(filled)

    assert all(np.isfinite(told).all() for told in searcher.told)
    assert result.loss == 2.0
    assert result.latent.tolist() == [[float(losses.index(2.0)), 0.0]]
    assert result.nonfinite == losses.count(None)
    np.testing.assert_array_equal(result.losses, np.float32(filled))
    assert all(progress.best_loss == INF or progress.best_loss >= 2 for progress in seen)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_without_a_finite_loss_there_is_no_best(bad):
    result, searcher, _, seen = scripted_search([bad] * 6)

    assert result.latent is None
    assert result.loss == INF
    assert result.nonfinite == 6
    assert seen[-1].best_latent is None
    assert all(np.isfinite(told).all() for told in searcher.told)


@pytest.mark.parametrize(
    ("losses", "best", "told"),
    [
        ([1.0, 2.0], INF, [1.0, 2.0]),
        ([1.0, NAN, 3.0, INF, -INF], 0.5, [1.0, 3.0, 3.0, 3.0, 3.0]),
        ([NAN, INF], 0.5, [1.5, 1.5]),
        ([NAN, -INF], INF, [0.0, 0.0]),
    ],
)
def test_a_loss_that_is_not_finite_is_told_as_the_worst_of_its_batch(losses, best, told):
    assert tellable(np.float32(losses), best).tolist() == told


@given(
    losses=st.lists(
        st.sampled_from([NAN, INF, -INF]) | st.floats(-10, 10, width=32), min_size=1, max_size=20
    ),
    population=st.integers(1, 9),
)
@example([-INF, NAN, 2.0], 2)
def test_any_losses_keep_the_promises_of_a_search(losses, population):
    result, searcher, objective, _ = scripted_search(losses, population)

    finite = [loss for loss in losses if np.isfinite(loss)]
    assert result.loss == (min(finite) if finite else INF)
    assert (result.latent is None) == (not finite)
    assert objective.spent == len(losses)
    assert all(np.isfinite(told).all() for told in searcher.told)


def test_latents_beyond_the_bounds_are_clamped():
    seen = []

    def objective(latents):
        seen.append(latents)
        return latents.sum(1)

    run_search(objective, Recorder(), GaussianLatentSpace(2, bound=2.5), budget=5, population=5)

    assert seen[0][:, 0].tolist() == [0.0, 1.0, 2.0, 2.5, 2.5]
    assert seen[0].dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["random", "nevergrad:DiagonalCMA", "nevergrad:OldCMA", "optuna:SepCmaEs", "optuna:TPE"]
)
@pytest.mark.parametrize("known", [0, 1, 8, 11, 16, 30])
def test_a_resumed_search_equals_an_uninterrupted_one(name, known):
    def search(objective, known=None):
        return run_search(
            objective,
            make_searcher(name, dim=2, budget=30, seed=3),
            SPACE,
            budget=30,
            population=8,
            known=known,
        )

    evaluated = []

    def counted(latents):
        evaluated.append(len(latents))
        return bowl(latents)

    whole = search(bowl)
    resumed = search(counted, History(whole.losses[:known]))

    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert torch.equal(resumed.latent, whole.latent)
    assert resumed.loss == whole.loss
    assert sum(evaluated) == 30 - 8 * (known // 8) if known < 30 else not evaluated


def test_known_losses_that_are_not_finite_resume_too():
    def objective(latents):
        losses = bowl(latents)
        return torch.where(latents[:, 0] > 0.5, torch.full_like(losses, NAN), losses)

    def search(known=None):
        searcher = make_searcher("nevergrad:DiagonalCMA", dim=2, budget=40, seed=3)
        return run_search(objective, searcher, SPACE, budget=40, population=8, known=known)

    whole = search()
    resumed = search(History(whole.losses[:16]))

    assert whole.nonfinite > 0
    np.testing.assert_array_equal(resumed.losses, whole.losses)


def test_known_losses_are_not_modified():
    known = np.full(8, 0.25, dtype=np.float32)

    run_search(bowl, Recorder(), SPACE, budget=12, population=8, known=History(known))

    assert known.tolist() == [0.25] * 8


def test_more_known_losses_than_the_budget_are_refused():
    with pytest.raises(AuditError):
        run_search(bowl, Recorder(), SPACE, budget=4, population=4, known=History(np.zeros(5)))


def test_progress_reports_every_loss_so_far():
    *_, seen = scripted_search([5.0, 4.0, 6.0, 7.0, 3.0])

    assert [progress.losses.tolist() for progress in seen] == [
        [5.0, 4.0, 6.0, 7.0],
        [5.0, 4.0, 6.0, 7.0, 3.0],
    ]


def test_a_search_that_is_over_its_time_ends_with_its_generation_and_keeps_its_best(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("engine.attacks.search.time.monotonic", lambda: next(clock))
    objective = Scripted([4.0, 3.0, 2.0, 1.0, 0.5, 0.4])

    result = run_search(
        objective, Recorder(), RawLatentSpace(2), budget=6, population=2, max_seconds=2
    )

    assert objective.batches == [2, 2]
    assert result.losses.tolist() == [4.0, 3.0, 2.0, 1.0]
    assert result.loss == 1.0


def test_a_search_has_one_generation_however_little_its_time():
    result = run_search(
        Scripted([2.0, 1.0]),
        Recorder(),
        RawLatentSpace(2),
        budget=2,
        population=1,
        max_seconds=1e-9,
    )

    assert result.losses.tolist() == [2.0]
