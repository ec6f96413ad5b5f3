import os
import statistics
import sys

import numpy as np
import pytest

from engine.attacks.searchers import SEARCHERS, make_searcher
from engine.errors import PlanError
from tests.contracts.searcher import SearcherContract


class TestRandom(SearcherContract):
    name = "random"


class TestSepCma(SearcherContract):
    name = "sepcma"


class TestCma(SearcherContract):
    name = "cma"


class TestFullCma(SearcherContract):
    name = "cma:full"


class TestNevergradDiagonalCma(SearcherContract):
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
    ("name", "settings"),
    [
        ("sepcma", {}),
        ("sepcma", {"population": 1}),
        ("cma:diagonal", {}),
        ("cma:diagonal", {"population": 1}),
        ("cma:full", {}),
        ("nevergrad:DiagonalCMA", {}),
        ("nevergrad:OldCMA", {}),
        ("nevergrad:OnePlusOne", {"population": 1}),
    ],
)
def test_informed_searchers_beat_random_search_at_equal_budget(name, settings, problem):
    informed = [best_of(name, problem, seed, **settings) for seed in range(5)]
    blind = [best_of("random", problem, seed) for seed in range(5)]

    assert statistics.median(informed) < 0.5 * statistics.median(blind)


def valley(points):
    """Narrow across the diagonal of the coordinates: only their correlations describe it."""
    return 1000 * (points.sum(axis=1) - 2) ** 2 + ((points - 0.5) ** 2).sum(axis=1)


def test_full_cma_learns_correlations_and_separable_cma_does_not():
    full, diagonal, own = (
        [best_of(name, valley, seed, budget=800, dim=4) for seed in range(3)]
        for name in ("cma:full", "cma:diagonal", "sepcma")
    )

    assert max(full) < 1e-4
    assert min(diagonal + own) > 1e-2


def steep(points):
    return ((points - 0.7) ** 2 * np.geomspace(1, 1000, points.shape[1])).sum(axis=1)


@pytest.mark.parametrize("problem", [bowl, ridge, steep])
@pytest.mark.parametrize("dim", [2, 8, 32])
def test_separable_cma_is_as_good_as_pycmas_at_equal_budget(dim, problem):
    """The same algorithm from its papers, so the same rate of convergence."""
    ours, theirs = (
        statistics.median(
            np.log10(best_of(name, problem, seed, budget=1500, dim=dim, population=20))
            for seed in range(11)
        )
        for name in ("sepcma", "cma:diagonal")
    )

    assert ours < theirs + 0.15 * abs(theirs) + 0.3


def test_separable_cma_learns_the_scale_of_every_coordinate():
    searcher = make_searcher("sepcma", dim=4, budget=1, seed=0)
    for _ in range(100):
        points = searcher.ask(searcher.preferred_population)
        searcher.tell(points, (points**2 * np.array([1, 1, 100, 100])).sum(axis=1))

    wide, _, narrow, _ = searcher.ask(4000).std(axis=0)

    assert wide / narrow == pytest.approx(10, rel=0.6)


@pytest.mark.parametrize("family", ["sepcma", "cma", "nevergrad"])
@pytest.mark.parametrize(("dim", "population"), [(1, 8), (4, 16), (32, 28), (128, 36)])
def test_the_default_population_is_twice_that_of_pycma(dim, population, family):
    searcher = make_searcher(family, dim=dim, budget=100, seed=0)

    assert searcher.preferred_population == population


@pytest.mark.parametrize("name", ["sepcma", "cma:full", "nevergrad:OldCMA"])
def test_the_population_can_be_set(name):
    searcher = make_searcher(name, dim=4, budget=100, seed=0, population=50)

    assert searcher.preferred_population == 50


def test_the_first_mean_is_uniform_where_asked_for():
    settings = {"dim": 400, "budget": 100, "seed": 0, "optimizer": "OnePlusOne", "workers": 1}

    zeros = make_searcher("nevergrad", **settings).ask(1)
    uniform = make_searcher("nevergrad", init="uniform", **settings).ask(1)

    assert float(uniform.mean() - zeros.mean()) == pytest.approx(0.5, abs=0.2)


def bowl_in_rounds(searcher, rounds):
    """Returns the losses of each round ``(rounds, population)`` on the bowl."""
    told = []
    for _ in range(rounds):
        points = searcher.ask(searcher.preferred_population)
        searcher.tell(points, bowl(points))
        told.append(bowl(points))
    return np.array(told)


CMA = pytest.mark.parametrize("name", ["sepcma", "cma:diagonal", "cma:full"])


def cma(name, *, dim=4, seed=0, **settings):
    return make_searcher(name, dim=dim, budget=100, seed=seed, **settings)


@pytest.mark.parametrize("sigma", [0.01, 1, 30.0])
@CMA
def test_the_first_points_of_cma_surround_zeros_by_sigma(name, sigma):
    points = cma(name, sigma=sigma).ask(20_000)

    np.testing.assert_allclose(points.mean(0) / sigma, np.zeros(4), atol=0.03)
    np.testing.assert_allclose(points.std(0) / sigma, np.ones(4), atol=0.03)


@CMA
def test_cma_learns_from_the_order_of_losses_alone(name):
    plain, curved = cma(name), cma(name)

    for _ in range(5):
        points, same = plain.ask(16), curved.ask(16)
        np.testing.assert_array_equal(points, same)
        plain.tell(points, bowl(points))
        curved.tell(same, -10 * np.exp(-bowl(same)))


@CMA
def test_cma_told_a_generation_in_parts_agrees_with_one_told_it_whole(name):
    whole, parts = cma(name, population=8), cma(name, population=8)

    for _ in range(4):
        points = whole.ask(8)
        whole.tell(points, bowl(points))
        for part in (points[:3], points[3:4], points[4:]):
            asked = parts.ask(len(part))
            np.testing.assert_allclose(asked, part, rtol=1e-9, atol=1e-12)
            parts.tell(asked, bowl(asked))


@CMA
def test_cma_learns_from_batches_larger_than_its_population(name):
    searcher = cma(name, population=5)

    for _ in range(40):
        points = searcher.ask(23)
        searcher.tell(points, bowl(points))

    assert bowl(points).max() < 1e-3


# From 300 coordinates on pycma itself would draw from numpy's global random state.
@pytest.mark.parametrize("dim", [1, 2, 512])
@CMA
def test_cma_learns_in_any_dimension_and_leaves_the_global_random_state_alone(name, dim):
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002

    losses = bowl_in_rounds(cma(name, dim=dim), 30)

    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert losses[-1].mean() < 0.8 * losses[0].mean()


LANDSCAPES = {
    "plateau": lambda points: np.zeros(len(points)),
    "slope": lambda points: -points[:, 0],
    "hill": lambda points: -np.abs(points).max(axis=1),
    "bowl": bowl,
    "edges": lambda points: -np.clip(points, -5, 5).sum(axis=1),
}


@pytest.mark.parametrize("landscape", LANDSCAPES)
@CMA
def test_cma_never_ends_and_never_leaves_the_finite(name, landscape):
    searcher = cma(name, dim=2)

    for _ in range(1500):
        points = searcher.ask(12)
        assert np.abs(points).max() < 1e6
        searcher.tell(points, LANDSCAPES[landscape](points))


@CMA
def test_cma_starts_anew_around_zeros_where_it_has_collapsed(name):
    searcher = cma(name, dim=2)
    spreads = [points.std() for points in bowl_in_rounds(searcher, 400)]

    smallest = int(np.argmin(spreads))

    assert spreads[smallest] < 1e-10
    assert max(spreads[smallest:]) > 0.1


@CMA
def test_cma_prints_and_writes_nothing(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    bowl_in_rounds(cma(name), 20)

    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == []


def test_an_unknown_optimizer_of_cma_is_refused():
    with pytest.raises(PlanError, match="Expected optimizer to be one of: diagonal, full"):
        make_searcher("cma:sparse", dim=4, budget=100, seed=0)


@pytest.mark.parametrize("family", ["sepcma", "cma"])
@pytest.mark.parametrize("sigma", [0, -1.0, 0.0001, 1e4, float("nan"), "1"])
def test_an_impossible_sigma_is_refused(sigma, family):
    with pytest.raises(PlanError, match=r"Expected sigma between 0\.001 and 100"):
        make_searcher(family, dim=4, budget=100, seed=0, sigma=sigma)


@pytest.mark.parametrize("family", ["cma", "nevergrad"])
def test_a_missing_package_is_named_with_its_remedy(family, monkeypatch):
    monkeypatch.setitem(sys.modules, family, None)

    with pytest.raises(PlanError, match=rf"needs the package {family} .* pip install {family}"):
        make_searcher(family, dim=4, budget=100, seed=0)


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("sepcma", "population"),
        ("cma", "population"),
        ("nevergrad", "population"),
        ("nevergrad", "workers"),
        ("nevergrad", "planned_budget"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_impossible_counts_are_refused(family, setting, value):
    with pytest.raises(PlanError, match=f"Expected {setting} to be a whole number"):
        make_searcher(family, dim=4, budget=100, seed=0, **{setting: value})


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
