"""The searchers that descend along gradients: Adam in its forms, and L-BFGS."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from engine.attacks.searchers import is_white_box, lbfgs_searcher, make_searcher
from engine.attacks.searchers.group_adam_searcher import registered_means
from engine.attacks.searchers.schedules import SCHEDULES
from engine.errors import PlanError


def descend(name, loss, gradient, *, dim, budget, seed=0, **settings):
    """Returns the losses that a search with gradients finds."""
    searcher = make_searcher(name, dim=dim, budget=budget, seed=seed, **settings)
    losses = []
    while len(losses) < budget:
        points = searcher.ask(min(searcher.preferred_population, budget - len(losses)))
        values = np.array([loss(point) for point in points])
        details = np.array([gradient(point) for point in points], dtype=np.float32)
        searcher.tell_details(points, values, details)
        losses += values.tolist()
    return losses


def bowl(point):
    return float(((point - 0.5) ** 2).sum())


def slope(point):
    return 2 * (point - 0.5)


def test_lbfgs_solves_a_quadratic_in_about_as_many_steps_as_it_has_curvatures():
    curvatures = np.geomspace(1, 1e4, 6)

    losses = descend(
        "lbfgs",
        lambda point: float(curvatures @ (point - 0.5) ** 2),
        lambda point: 2 * curvatures * (point - 0.5),
        dim=6,
        budget=40,
        population=1,
    )

    assert min(losses) < 1e-8


def test_lbfgs_follows_rosenbrocks_valley():
    losses = descend("lbfgs", rosen, rosen_der, dim=10, budget=400, population=1)

    assert min(losses) < 1e-6


def test_lbfgs_never_accepts_a_step_above_the_highest_of_the_last_losses(monkeypatch):
    monkeypatch.setattr(lbfgs_searcher, "RECENT", 3)
    searcher = make_searcher("lbfgs", dim=10, budget=100, seed=1, population=1)
    [first] = searcher._descents
    accepted = []
    for _ in range(100):
        [point] = searcher.ask(1)
        loss = rosen(point)
        searcher.tell_details(point[None], np.array([loss]), rosen_der(point)[None])
        if first._loss not in accepted[-1:]:
            accepted.append(first._loss)

    assert all(loss <= max(accepted[n : n + 3]) for n, loss in enumerate(accepted[3:]))
    assert any(after > before for before, after in pairwise(accepted))


def test_lbfgs_draws_a_point_anew_from_which_nothing_is_lower():
    """A loss whose gradient points the wrong way, as those of a discontinuous model may."""
    searcher = make_searcher("lbfgs", dim=3, budget=200, seed=1, population=1)
    starts = {searcher._descents[0]._point.tobytes()}
    for _ in range(100):
        points = searcher.ask(1)
        searcher.tell_details(points, np.array([bowl(points[0])]), -slope(points))
        starts.add(searcher._descents[0]._point.tobytes())

    assert len(starts) >= 3


def test_lbfgs_starts_as_far_from_zero_as_it_is_told():
    settings = {"dim": 2000, "budget": 10, "seed": 0}

    far, near = (
        make_searcher("lbfgs", **settings, **told).ask(1) for told in ({}, {"start_std": 0.1})
    )

    np.testing.assert_allclose(near, 0.1 * far)
    assert far.std() == pytest.approx(1, abs=0.05)
    with pytest.raises(PlanError, match="Expected start_std > 0, got start_std=0"):
        make_searcher("lbfgs", **settings, start_std=0)


@pytest.mark.parametrize("name", ["adam", "group_adam", "lbfgs"])
def test_descents_end_lower_than_they_began_and_are_white_box(name):
    losses = descend(name, bowl, slope, dim=5, budget=400)

    assert min(losses) < 0.05 * min(losses[:8])
    assert is_white_box(name)


@pytest.mark.parametrize("name", ["adam", "group_adam", "lbfgs"])
def test_a_point_whose_gradient_is_not_finite_is_left(name):
    searcher = make_searcher(name, dim=2, budget=100, seed=0)
    for _ in range(3):
        points = searcher.ask(searcher.preferred_population)
        details = np.full(points.shape, np.nan)
        searcher.tell_details(points, np.full(len(points), 9.0), details)
        assert np.isfinite(searcher.ask(searcher.preferred_population)).all()


def test_signed_steps_have_the_length_of_the_schedule_in_every_coordinate():
    searcher = make_searcher(
        "adam", dim=4, budget=80, seed=0, population=1, signed=True, schedule="stepwise"
    )
    lengths = []
    for _ in range(80):
        before = searcher.ask(1)
        searcher.tell_details(before, np.zeros(1), np.array([[1e-6, 5.0, -1.0, -2e3]]))
        lengths.append(np.abs(searcher._points - before))

    np.testing.assert_allclose(np.array(lengths).std(axis=2), 0, atol=1e-9)
    relative = np.array(lengths)[[0, 29, 30, 49, 50, 69, 70], 0, 0] / 0.1
    np.testing.assert_allclose(relative, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-3)


def test_no_coordinate_leaves_the_box():
    searcher = make_searcher("adam", dim=3, budget=100, seed=0, box=1.0, learning_rate=0.5)
    for _ in range(10):
        points = searcher.ask(8)
        assert np.abs(points).max() <= 1
        searcher.tell_details(points, np.zeros(8), np.tile([1.0, -1.0, 0.0], (8, 1)))

    assert searcher.ask(1)[0, :2].tolist() == [-1, 1]


def test_schedules_begin_at_one_and_do_not_rise():
    for schedule in SCHEDULES.values():
        values = [schedule(share) for share in np.linspace(0, 1, 41)]
        assert values[0] == 1
        assert (np.diff(values) <= 0).all()
    assert SCHEDULES["cosine"](1.0) == pytest.approx(0)
    assert SCHEDULES["stepwise"](0.9) == pytest.approx(1e-3)


def test_a_group_agrees_more_the_more_consistency_counts():
    def spread(consistency):
        searcher = make_searcher(
            "group_adam", dim=6, budget=400, seed=0, consistency=consistency, noise=0.0
        )
        for _ in range(50):  # A loss that says nothing of where to go.
            points = searcher.ask(8)
            searcher.tell_details(points, np.zeros(8), np.zeros((8, 6)))
        return searcher.ask(8).std(axis=0).mean()

    assert spread(1.0) < 0.2 * spread(0.0)


def test_a_group_of_one_agrees_with_itself():
    settings = {"dim": 4, "budget": 10, "population": 1}

    alone = descend("adam", bowl, slope, **settings, schedule="cosine")

    assert descend("group_adam", bowl, slope, **settings, noise=0.0, consistency=9.0) == alone


def test_images_are_registered_before_they_are_averaged():
    rng = np.random.default_rng(0)
    image = np.kron(rng.normal(size=(2, 3, 4, 4)), np.ones((4, 4)))  # Two images of three colours.
    offsets = [(0, 0), (1, -2), (-2, 1)]
    images = np.stack([np.roll(image, offset, axis=(-2, -1)) for offset in offsets])

    np.testing.assert_allclose(registered_means(images), images, atol=1e-9)


def test_a_shift_beyond_an_eighth_is_no_shift():
    image = np.random.default_rng(0).normal(size=(1, 1, 1, 16, 16))
    images = np.concatenate([image, np.roll(image, 8, axis=-1)])

    means = registered_means(images)

    assert np.abs(means - images).max() > 0.1
