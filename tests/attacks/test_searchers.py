import statistics

import numpy as np
import pytest

from engine.attacks.searchers import SEARCHERS, make_searcher
from engine.errors import PlanError
from tests.contracts.searcher import SearcherContract


class TestRandom(SearcherContract):
    name = "random"


class TestDiagonalCma(SearcherContract):
    name = "nevergrad:DiagonalCMA"


class TestOldCma(SearcherContract):
    name = "nevergrad:OldCMA"


class TestOnePlusOne(SearcherContract):
    name = "nevergrad:OnePlusOne"


def test_random_points_follow_the_prior():
    points = make_searcher("random", dim=4, budget=1, seed=0).ask(20_000)

    np.testing.assert_allclose(points.mean(0), np.zeros(4), atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), np.eye(4), atol=0.04)


def bowl(points):
    return ((points - 0.7) ** 2).sum(axis=1)


def ridge(points):
    return ((points - 0.7) ** 2 * np.geomspace(1, 30, points.shape[1])).sum(axis=1)


def best_of(name, problem, seed, *, budget=300, dim=8, **settings):
    searcher = make_searcher(name, dim=dim, budget=budget, seed=seed, **settings)
    best = np.inf
    for _ in range(budget // searcher.preferred_population):
        points = searcher.ask(searcher.preferred_population)
        losses = problem(points)
        searcher.tell(points, losses)
        best = min(best, losses.min())
    return best


@pytest.mark.parametrize("problem", [bowl, ridge])
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [("DiagonalCMA", {}), ("OldCMA", {}), ("OnePlusOne", {"population": 1})],
)
def test_informed_searchers_beat_random_search_at_equal_budget(optimizer, settings, problem):
    name = f"nevergrad:{optimizer}"
    informed = [best_of(name, problem, seed, **settings) for seed in range(5)]
    blind = [best_of("random", problem, seed) for seed in range(5)]

    assert statistics.median(informed) < 0.5 * statistics.median(blind)


@pytest.mark.parametrize(("dim", "population"), [(1, 8), (4, 16), (32, 28), (128, 36)])
def test_the_default_population_is_twice_that_of_pycma(dim, population):
    searcher = make_searcher("nevergrad", dim=dim, budget=100, seed=0)

    assert searcher.preferred_population == population


def test_the_population_can_be_set():
    searcher = make_searcher("nevergrad:OldCMA", dim=4, budget=100, seed=0, population=50)

    assert searcher.preferred_population == 50


def test_the_first_mean_is_uniform_where_asked_for():
    settings = {"dim": 400, "budget": 100, "seed": 0, "optimizer": "OnePlusOne", "workers": 1}

    zeros = make_searcher("nevergrad", **settings).ask(1)
    uniform = make_searcher("nevergrad", init="uniform", **settings).ask(1)

    assert float(uniform.mean() - zeros.mean()) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("setting", ["population", "workers", "planned_budget"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_impossible_counts_are_refused(setting, value):
    with pytest.raises(PlanError, match=f"Expected {setting} to be a whole number"):
        make_searcher("nevergrad", dim=4, budget=100, seed=0, **{setting: value})


def test_an_unknown_init_is_refused():
    with pytest.raises(PlanError, match="Expected init to be one of: zeros, uniform"):
        make_searcher("nevergrad", dim=4, budget=100, seed=0, init="ones")


def test_an_unknown_optimizer_is_refused_with_the_nearest_name():
    with pytest.raises(PlanError, match=r"Unknown Nevergrad optimizer 'OldCMAA'.*'OldCMA'"):
        make_searcher("nevergrad:OldCMAA", dim=4, budget=100, seed=0)


def test_an_unknown_family_is_refused():
    with pytest.raises(PlanError, match=r"Unknown searcher 'nevergard'.*Did you mean 'nevergrad'"):
        make_searcher("nevergard:OldCMA", dim=4, budget=100, seed=0)


def test_random_search_takes_no_optimizer():
    with pytest.raises(PlanError, match="Unknown setting 'optimizer' of the searcher 'random'"):
        make_searcher("random:fast", dim=4, budget=100, seed=0)


def test_every_searcher_has_a_summary():
    assert all(summary.endswith(".") for summary in SEARCHERS.summaries().values())
