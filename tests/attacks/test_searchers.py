import os
import statistics

import numpy as np
import pytest
import torch

from engine.attacks.presets import PUBLISHED_GGL
from engine.attacks.searchers import SEARCHERS, make_searcher
from engine.attacks.searchers.nevergrad_searcher import _generation
from engine.attacks.searchers.turbo_searcher import _draw, _fit, _minima, _Region
from engine.errors import PlanError
from search_spaces import GaussianLatentSpace
from tests.contracts.searcher import SearcherContract


class TestRandom(SearcherContract):
    name = "random"


class TestAdam(SearcherContract):
    name = "adam"


class TestGroupAdam(SearcherContract):
    name = "group_adam"


class TestLbfgs(SearcherContract):
    name = "lbfgs"


class TestGaussNewton(SearcherContract):
    name = "gauss_newton"


class TestSepCma(SearcherContract):
    name = "sepcma"


class TestDiagonalCma(SearcherContract):
    name = "cma:diagonal"


class TestFullCma(SearcherContract):
    name = "cma:full"


class TestNevergradCma(SearcherContract):
    name = "nevergrad:CMA"


class TestNevergradDe(SearcherContract):
    name = "nevergrad:DE"


class TestNevergradDiagonalCma(SearcherContract):
    name = "nevergrad:DiagonalCMA"


class TestNGOpt(SearcherContract):
    name = "nevergrad:NGOpt"


class TestOldCma(SearcherContract):
    name = "nevergrad:OldCMA"


class TestOnePlusOne(SearcherContract):
    name = "nevergrad:OnePlusOne"


class TestPso(SearcherContract):
    name = "nevergrad:PSO"


class TestTwoPointsDe(SearcherContract):
    name = "nevergrad:TwoPointsDE"


class TestOptunaCmaEs(SearcherContract):
    name = "optuna:CmaEs"
    dims = (1, 2, 64)  # It decomposes its covariance matrix for every candidate.


class TestOptunaNsgaII(SearcherContract):
    name = "optuna:NSGAII"


class TestOptunaQmc(SearcherContract):
    name = "optuna:QMC"


class TestOptunaRandom(SearcherContract):
    name = "optuna:Random"


class TestOptunaSepCmaEs(SearcherContract):
    name = "optuna:SepCmaEs"


class TestOptunaTpe(SearcherContract):
    name = "optuna:TPE"


@pytest.mark.slow
class TestOptunaGp(SearcherContract):
    name = "optuna:GP"
    slow = True


@pytest.mark.slow
class TestAxSobol(SearcherContract):
    name = "ax:Sobol"
    slow = True


@pytest.mark.slow
class TestAxBo(SearcherContract):
    name = "ax:BO"
    slow = True
    dims = (1, 2, 32)  # Its process is fitted in all of them.


@pytest.mark.slow
class TestTurbo(SearcherContract):
    name = "turbo"
    slow = True


def test_random_points_follow_the_prior():
    points = make_searcher("random", dim=4, budget=1, seed=0).ask(20_000)

    np.testing.assert_allclose(points.mean(0), np.zeros(4), atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), np.eye(4), atol=0.04)


def bowl(points):
    return ((points - 0.7) ** 2).sum(axis=1)


def ridge(points):
    return ((points - 0.7) ** 2 * np.geomspace(1, 30, points.shape[1])).sum(axis=1)


def best_of(name, problem, seed, *, budget=300, dim=8, **settings):
    """Returns the least value of a problem in latents that a search finds."""
    searcher = make_searcher(name, dim=dim, budget=budget, seed=seed, **settings)
    space = GaussianLatentSpace(dim)
    best = np.inf
    for _ in range(budget // searcher.preferred_population):
        points = searcher.ask(searcher.preferred_population)
        losses = problem(space.to_latents(torch.from_numpy(points), searcher.view).numpy())
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
        ("nevergrad:OnePlusOne", {}),
        ("nevergrad:NGOpt", {}),
        ("optuna:CmaEs", {}),
        ("optuna:SepCmaEs", {}),
        pytest.param("optuna:TPE", {}, marks=pytest.mark.slow),
        pytest.param("turbo", {}, marks=pytest.mark.slow),
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


def test_the_published_search_asks_what_it_always_asked():
    """Points of the preset ``ggl`` as Nevergrad 1.0.12 gave them when it was first measured."""
    searcher = make_searcher(
        PUBLISHED_GGL.searcher, dim=4, budget=500, seed=2**62 + 7, **PUBLISHED_GGL.searcher_settings
    )
    assert searcher.preferred_population == 50

    for _ in range(6):
        points = searcher.ask(50)
        searcher.tell(points, bowl(points))

    first, last = points[0], points[-1]
    np.testing.assert_allclose(first, [-0.41874740, 1.07182314, -0.89211938, 1.00016633], atol=1e-6)
    np.testing.assert_allclose(last, [-0.38031127, 1.45682611, -0.39216905, 0.21148036], atol=1e-6)


OPTIMIZERS_OF_A_GENERATION = ["CMA", "DiagonalCMA", "NGOpt", "OldCMA"]


@pytest.mark.parametrize("population", [None, 1, 7, 10, 50])
@pytest.mark.parametrize("dim", [2, 32, 320])
@pytest.mark.parametrize("optimizer", OPTIMIZERS_OF_A_GENERATION)
def test_a_generation_of_nevergrad_is_one_or_several_populations(optimizer, dim, population):
    searcher = make_searcher(
        f"nevergrad:{optimizer}", dim=dim, budget=2500, seed=0, population=population
    )

    generation = _generation(searcher._optimizer)
    if optimizer != "NGOpt":
        assert generation is not None
    if generation is not None:
        assert generation % searcher.preferred_population == 0


def test_nevergrads_cma_learns_in_many_dimensions_from_any_population():
    """Where batches and generations are out of step it ends with an error from 300 on."""
    losses = bowl_in_rounds(
        make_searcher("nevergrad:CMA", dim=320, budget=2500, seed=0, population=20), 60
    )

    assert losses[-1].mean() < 0.8 * losses[0].mean()


def test_workers_that_put_generations_out_of_step_are_refused_in_many_dimensions():
    settings = PUBLISHED_GGL.searcher_settings

    make_searcher(PUBLISHED_GGL.searcher, dim=299, budget=500, seed=0, **settings)
    with pytest.raises(PlanError, match="Expected a population that divides the optimizer's gener"):
        make_searcher(PUBLISHED_GGL.searcher, dim=300, budget=500, seed=0, **settings)


def test_one_dimension_leaves_nevergrads_optimizers_usable():
    """Nevergrad's own CMA-ES needs another package in one, and then in all dimensions."""
    for dim in (1, 3):
        searcher = make_searcher("nevergrad:OldCMA", dim=dim, budget=10, seed=0)
        assert searcher.ask(2).shape == (2, dim)


@pytest.mark.parametrize("optimizer", ["OnePlusOne", "DiscreteOnePlusOne", "Cobyla"])
def test_optimizers_of_one_candidate_at_a_time_prefer_it(optimizer):
    searcher = make_searcher(f"nevergrad:{optimizer}", dim=4, budget=10, seed=0)

    assert searcher.preferred_population == 1


def test_an_optimizer_that_takes_one_candidate_at_a_time_is_not_given_more():
    with pytest.raises(PlanError, match="'Cobyla' takes one candidate at a time, got 5"):
        make_searcher("nevergrad:Cobyla", dim=4, budget=10, seed=0, population=5)


def test_nevergrads_metamodels_are_refused_but_for_its_own_choice():
    with pytest.raises(PlanError, match="Expected an optimizer without a metamodel"):
        make_searcher("nevergrad:MetaModel", dim=2, budget=100, seed=0)

    losses = bowl_in_rounds(make_searcher("nevergrad:NGOpt", dim=2, budget=400, seed=0), 30)
    assert losses[-1].mean() < losses[0].mean()


def test_losses_beyond_nevergrads_largest_are_told_without_a_warning():
    searcher = make_searcher("nevergrad:DE", dim=2, budget=100, seed=0, population=4)

    searcher.tell(searcher.ask(4), np.array([1e38, 5e20, 1.0, -1e38]))

    assert np.isfinite(searcher.ask(4)).all()


@pytest.mark.parametrize("name", ["CmaEs", "SepCmaEs"])
def test_the_first_generation_of_optunas_cma_is_its_own(name):
    points = make_searcher(f"optuna:{name}", dim=8, budget=100, seed=0, population=200).ask(200)

    np.testing.assert_allclose(points.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(points.std(), 1 / 6, atol=0.01)  # Of uniform points, 0.29.


def test_tpe_goes_on_with_the_best_and_the_latest_trials():
    searcher = make_searcher("optuna:TPE", dim=2, budget=500, seed=0, population=50)
    losses = bowl_in_rounds(searcher, 8)

    kept = [trial.value for trial in searcher._study.get_trials(deepcopy=False)]

    assert 250 <= len(kept) <= 350
    assert min(kept) == losses.min()


def test_the_trust_region_shrinks_on_failures_and_starts_anew():
    region = _Region.around_nothing(2)
    region.points, region.losses = torch.zeros(1, 2), torch.ones(1)
    for _ in range(2):
        region.resize(torch.ones(2))

    assert region.length == 0.4

    for best in (0.9, 0.8, 0.7):
        region.resize(torch.tensor([best]))

    assert region.length == 0.8


def test_where_several_functions_are_least_no_place_is_taken_twice():
    drawn = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [0.0, 0.0, 9.0]])

    assert _minima(drawn) == [1, 2, 0]


@pytest.mark.slow
def test_the_trust_regions_process_is_botorchs_posterior():
    """Draws have the posterior's mean and deviation."""
    searcher = make_searcher("turbo", dim=2, budget=60, seed=0)
    bowl_in_rounds(searcher, 3)
    model = _fit(*searcher._region.modelled(), None)
    points = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    drawn = _draw(model, points, 4000, torch.Generator().manual_seed(1))

    posterior = model.posterior(points)
    expected, spread = posterior.mean.detach().flatten(), posterior.variance.detach().sqrt()
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(drawn.std(0), spread.flatten(), atol=0.02, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna:GP", "ax:BO", "turbo"])
def test_model_based_searchers_find_a_bowl_in_few_evaluations(name):
    informed = best_of(name, bowl, 0, budget=60, dim=3)
    blind = statistics.median(best_of("random", bowl, seed, budget=60, dim=3) for seed in range(5))

    assert informed < 0.3 * blind


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna:GP", "optuna:QMC", "optuna:TPE", "ax:BO", "turbo"])
def test_libraries_print_and_write_nothing(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    bowl_in_rounds(make_searcher(name, dim=2, budget=40, seed=0), 3)

    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == []


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
    with pytest.raises(PlanError, match="Unknown CMA optimizer 'sparse'; expected one of: diag"):
        make_searcher("cma:sparse", dim=4, budget=100, seed=0)


@pytest.mark.parametrize("family", ["sepcma", "cma"])
@pytest.mark.parametrize("sigma", [0, -1.0, 0.0001, 1e4, float("nan"), "1"])
def test_an_impossible_sigma_is_refused(sigma, family):
    with pytest.raises(PlanError, match=r"Expected sigma between 0\.001 and 100"):
        make_searcher(family, dim=4, budget=100, seed=0, sigma=sigma)


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


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("optuna:TPEE", "TPE"), ("ax:Sobl", "Sobol"), ("cma:ful", "full"), ("nevergrad:PSOO", "PSO")],
)
def test_an_unknown_optimizer_of_any_family_is_refused_with_the_nearest_name(name, nearest):
    with pytest.raises(PlanError, match=rf"expected one of: .*Did you mean '{nearest}'"):
        make_searcher(name, dim=4, budget=100, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "7", None])
def test_a_seed_beyond_63_bits_is_refused(seed):
    with pytest.raises(PlanError, match=r"Expected seed to be a whole number from 0 to 2\^63 - 1"):
        make_searcher("random", dim=4, budget=100, seed=seed)


@pytest.mark.parametrize("setting", ["dim", "budget"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_impossible_sizes_of_a_search_are_refused(setting, value):
    with pytest.raises(PlanError, match=f"Expected {setting} to be a whole number"):
        make_searcher("sepcma", **{"dim": 4, "budget": 100, "seed": 0, setting: value})


def test_an_unknown_family_is_refused():
    with pytest.raises(PlanError, match=r"Unknown searcher 'nevergard'.*Did you mean 'nevergrad'"):
        make_searcher("nevergard:OldCMA", dim=4, budget=100, seed=0)


def test_random_search_takes_no_optimizer():
    with pytest.raises(PlanError, match="Unknown setting 'optimizer' of the searcher 'random'"):
        make_searcher("random:fast", dim=4, budget=100, seed=0)


def test_every_searcher_has_a_summary():
    assert all(summary.endswith(".") for summary in SEARCHERS.summaries().values())
