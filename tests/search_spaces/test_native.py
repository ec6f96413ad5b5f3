"""Exports to each library, and what each library's own sampler suggests, mapped back."""

import functools
import itertools

import numpy as np
import pytest
import torch

from search_spaces import make_space
from search_spaces.audit_grid import grid_points
from search_spaces.latent_spaces import SPACES
from search_spaces.native import (
    coordinate_names,
    grid_to_tune,
    to_ax,
    to_nevergrad,
    to_optuna,
    to_point,
    to_points,
    to_suggestion,
    to_tune,
)
from tests.search_spaces.conftest import arguments_for

BOUNDED = [name for name, space in SPACES.items() if "unit" in space.views]
LATENT_DIM, POINTS = 6, 100


def space_of(name):
    # Every space has as many coordinates, so that a library's suggestions serve all of them.
    settings = {"directions": 6} if name in ("principal", "random_embedding") else {}
    return make_space(name, **{**arguments_for(name, LATENT_DIM), **settings})


@functools.cache
def suggested_by_optuna():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(to_optuna(space_of("gaussian"))).params for _ in range(POINTS)]


@functools.cache
def suggested_by_nevergrad():
    import nevergrad

    parametrization = to_nevergrad(space_of("gaussian"))
    parametrization.random_state.seed(0)
    optimizer = nevergrad.optimizers.RandomSearch(parametrization, budget=POINTS)
    return [optimizer.ask().value for _ in range(POINTS)]


@functools.cache
def suggested_by_ax():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ax's own imports.
        from ax import Client

        client = Client(random_seed=0)
        client.configure_experiment(parameters=to_ax(space_of("gaussian")))
        client.configure_optimization(objective="-loss")
        client.configure_generation_strategy(
            method="random_search", initialization_random_seed=0, initialize_with_center=False
        )
        trials = client.get_next_trials(max_trials=POINTS)
    return list(trials.values())


@functools.cache
def suggested_by_tune():
    from ray.tune.search.variant_generator import generate_variants

    state = np.random.RandomState(0)
    spec = to_tune(space_of("gaussian"))
    return [next(generate_variants(spec, random_state=state))[1] for _ in range(POINTS)]


LIBRARIES = {
    "optuna": suggested_by_optuna,
    "nevergrad": suggested_by_nevergrad,
    "ax": suggested_by_ax,
    "tune": suggested_by_tune,
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_library_suggests_becomes_the_latents_of_its_values(name, library):
    space, suggestions = space_of(name), LIBRARIES[library]()

    points = to_points(space, suggestions)

    assert len(suggestions) == POINTS
    assert points.shape == (POINTS, LATENT_DIM)
    by_hand = np.array([[row[f"z{place}"] for place in range(LATENT_DIM)] for row in suggestions])
    np.testing.assert_array_equal(points, by_hand)
    assert len(np.unique(points, axis=0)) == POINTS
    latents = space.to_latents(torch.from_numpy(points), "unit")
    assert torch.equal(latents, space.to_latents(torch.from_numpy(by_hand), "unit"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_librarys_own_sampler_fills_the_whole_cube(library):
    points = to_points(space_of("gaussian"), LIBRARIES[library]())

    assert (points.min(0) < 0.1).all()
    assert (points.max(0) > 0.9).all()


@pytest.mark.parametrize("name", BOUNDED)
def test_points_survive_the_way_there_and_back(name):
    space = space_of(name)
    points = np.random.default_rng(0).random((POINTS, space.dim))

    back = to_points(space, [to_suggestion(space, point) for point in points])

    np.testing.assert_array_equal(back, points)


@pytest.mark.parametrize("library", ["optuna", "nevergrad", "tune"])
def test_a_librarys_form_has_the_names_and_bounds_of_the_space(library):
    space = make_space("gaussian", latent_dim=11)
    forms = {"optuna": to_optuna, "nevergrad": to_nevergrad, "tune": to_tune}

    form = forms[library](space)

    assert list(form) == coordinate_names(space)
    for name in form:
        bounds = form[name].bounds if library == "nevergrad" else (0.0, 1.0)
        assert tuple(float(np.squeeze(bound)) for bound in bounds) == (0.0, 1.0)
        if library == "optuna":
            assert (form[name].low, form[name].high, form[name].log) == (0.0, 1.0, False)
        if library == "tune":
            assert (form[name].lower, form[name].upper) == (0.0, 1.0)


def test_the_parameters_of_ax_are_floats_between_0_and_1():
    parameters = to_ax(make_space("gaussian", latent_dim=11))

    assert [one.name for one in parameters] == [f"z{place:02}" for place in range(11)]
    assert {(one.bounds, one.parameter_type) for one in parameters} == {((0.0, 1.0), "float")}


@pytest.mark.parametrize(("latent_dim", "first", "last"), [(1, "z0", "z0"), (512, "z000", "z511")])
def test_names_sort_in_the_order_of_the_coordinates(latent_dim, first, last):
    names = coordinate_names(make_space("gaussian", latent_dim=latent_dim))

    assert names == sorted(names)
    assert (names[0], names[-1], len(names)) == (first, last, latent_dim)


def test_the_names_of_several_images_go_on():
    names = coordinate_names(make_space("gaussian", latent_dim=4, images=3))

    assert names == [f"z{place:02}" for place in range(12)]


def test_a_suggestion_may_be_in_any_order():
    space = make_space("gaussian", latent_dim=3)

    assert to_point(space, {"z2": 0.3, "z0": 0.1, "z1": 0.2}).tolist() == [0.1, 0.2, 0.3]


def test_no_suggestions_are_no_points():
    assert to_points(make_space("gaussian", latent_dim=3), []).shape == (0, 3)


@pytest.mark.parametrize(
    ("suggestion", "message"),
    [
        ({"z0": 0.5}, "Expected the 2 coordinates z0 to z1, got a suggestion that differs in z1."),
        ({"z0": 0.5, "z1": 0.5, "lr": 1}, "differs in lr"),
        ({"z0": 0.5, "z1": 1.5}, "Expected z1 between 0 and 1, got 1.5"),
        ({"z0": float("nan"), "z1": 0.5}, "Expected z0 between 0 and 1, got nan"),
        ({f"x{place}": 0 for place in range(9)}, "x0, x1, x2, x3, x4 and others"),
    ],
)
def test_a_suggestion_that_is_none_is_refused(suggestion, message):
    with pytest.raises(ValueError, match=message):
        to_point(make_space("gaussian", latent_dim=2), suggestion)


@pytest.mark.parametrize("export", [to_optuna, to_nevergrad, to_ax, to_tune])
def test_an_unbounded_space_is_not_exported(export):
    with pytest.raises(ValueError, match="Expected a bounded space, got a RawLatentSpace"):
        export(make_space("raw", latent_dim=2))


def test_tune_runs_the_points_of_the_grid():
    from ray.tune.search.variant_generator import generate_variants

    axes = {
        "target": [0, 1, 2],
        "defense": [{"name": "none"}, {"name": "clipping", "max_norm": 1}],
        "searcher": ["sepcma", "random"],
        "seed": [0, 7],
    }

    variants = [spec for _, spec in generate_variants(grid_to_tune(axes))]

    def order(points):
        return sorted(points, key=str)

    expected = [
        {"target": target, "defense": defense, "searcher": searcher, "seed": seed}
        for target, defense, searcher, seed in itertools.product(*axes.values())
    ]
    assert order(variants) == order(expected) == order(grid_points(axes))
    assert len(variants) == 24
