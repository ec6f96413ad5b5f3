import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from engine.attacks import AttackSettings, History, prepare_objective, run_attack, run_search
from engine.attacks.attack import check_settings, searcher_of
from engine.attacks.candidates import check_candidates
from engine.attacks.restarts import SCHEDULERS, Restarts
from engine.errors import PlanError
from engine.federation import compute_update
from search_spaces.latent_spaces import LabelledSpace, RawLatentSpace
from tests.contracts.searcher import SearcherContract

PLANTED = torch.tensor([[0.3, -0.7, 0.9]])
LABEL = torch.tensor([2])


class Marked:
    """Asks for points that say whose they are and how many it has asked before."""

    view = "normal"
    preferred_population = 2

    def __init__(self, place):
        self.place, self.asked, self.told = place, 0, []

    def ask(self, candidates):
        start, self.asked = self.asked, self.asked + candidates
        return np.array([[self.place, start + n] for n in range(candidates)], dtype=np.float64)

    def tell(self, points, losses):
        assert (points[:, 0] == self.place).all()
        self.told.extend(losses.tolist())


def search(loss_of, *, restarts, budget, scheduler, known=None):
    """Searches with marked restarts; ``loss_of(restart, evaluation)`` says what each finds."""
    made = {}

    def make(place):
        made[place] = Marked(place)
        return made[place]

    searcher = Restarts(make, restarts=restarts, budget=budget, scheduler=scheduler)
    asked = []

    def objective(latents):
        asked.extend(latents.tolist())
        return torch.tensor([loss_of(int(p), int(n)) for p, n in latents.tolist()])

    space = RawLatentSpace(2)
    result = run_search(objective, searcher, space, budget=budget, population=2, known=known)
    return searcher, result, [int(place) for place, _ in asked], made


def falling(restart, evaluation):
    """The higher a restart's number the better, at every evaluation."""
    return 10.0 - restart - evaluation / 100


def rising(restart, evaluation):
    """The lower a restart's number the better."""
    return 1.0 + restart - evaluation / 1000


def test_restarts_take_turns_by_generations_and_share_the_budget_evenly():
    searcher, result, turns, _ = search(falling, restarts=3, budget=14, scheduler="none")

    assert turns == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 0, 0]
    assert searcher.stopped == []
    assert len(result.losses) == 14


def test_the_reconstruction_is_that_of_the_lowest_loss_of_all():
    _, result, _, _ = search(falling, restarts=3, budget=12, scheduler="none")

    assert result.latent.tolist() == [[2.0, 3.0]]
    assert result.loss == pytest.approx(7.97)


def test_halving_keeps_the_better_half_and_gives_it_what_the_others_leave():
    searcher, result, turns, made = search(falling, restarts=4, budget=48, scheduler="halving")

    # Thirds of 16: four restarts with 4 each, two with 8 more each, one with 16 more.
    assert Counter(turns) == {0: 4, 1: 4, 2: 12, 3: 28}
    assert searcher.stopped == [0, 1, 2]
    assert len(result.losses) == 48
    assert [len(one.told) for one in made.values()] == [4, 4, 12, 28]


@pytest.mark.parametrize(("restarts", "left"), [(2, 1), (3, 1), (5, 1), (8, 1)])
def test_halving_ends_with_one(restarts, left):
    searcher, _, turns, _ = search(falling, restarts=restarts, budget=200, scheduler="halving")

    assert len(searcher.stopped) == restarts - left
    assert turns[-1] == restarts - 1


def test_of_equal_restarts_the_first_are_kept():
    searcher, *_ = search(lambda *_: 1.0, restarts=4, budget=48, scheduler="halving")

    assert searcher.stopped == [1, 2, 3]


def test_the_median_stops_the_hopeless_ones_but_never_the_best():
    def loss_of(restart, evaluation):
        return 5.0 if restart == 1 else 1.0 / (1 + evaluation) + restart / 1000

    searcher, _, turns, _ = search(loss_of, restarts=5, budget=200, scheduler="median")

    assert searcher.stopped == [1]
    # A quarter of an even share of 40, to the end of that round.
    assert Counter(turns)[1] == 10


def test_the_median_needs_three_others():
    searcher, *_ = search(rising, restarts=6, budget=120, scheduler="median")

    assert searcher.stopped == [3, 4, 5]


@pytest.mark.parametrize("scheduler", ["halving", "median"])
def test_a_restart_without_a_finite_loss_is_stopped_first(scheduler):
    def loss_of(restart, evaluation):
        return float("nan") if restart == 0 else rising(restart, evaluation)

    searcher, result, _, _ = search(loss_of, restarts=5, budget=100, scheduler=scheduler)

    assert 0 in searcher.stopped
    assert result.loss < 2.0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kept", [1, 17, 46])
def test_an_interrupted_search_has_the_turns_it_would_have_had(scheduler, kept):
    def loss_of(restart, evaluation):
        return float(np.random.default_rng([restart, evaluation]).random())

    whole = search(loss_of, restarts=4, budget=48, scheduler=scheduler)
    known = History(whole[1].losses[:kept])
    resumed = search(loss_of, restarts=4, budget=48, scheduler=scheduler, known=known)

    np.testing.assert_array_equal(resumed[1].losses, whole[1].losses)
    assert resumed[0].stopped == whole[0].stopped
    assert resumed[2] == whole[2][len(whole[2]) - len(resumed[2]) :]


@pytest.fixture
def objective(model, generator, knowledge):
    return prepare_objective(
        compute_update(model, generator(PLANTED, LABEL), LABEL), knowledge, AttackSettings()
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("searcher", ["sepcma", "nevergrad:DiagonalCMA", "random", "gauss_newton"])
def test_an_attack_with_restarts_spends_exactly_its_budget(searcher, scheduler, objective):
    settings = AttackSettings(searcher=searcher, restarts=4, scheduler=scheduler)

    found = run_attack(objective, settings, budget=301, seed=0)

    assert len(found.losses) == 301
    assert found.loss == found.losses.min()
    torch.testing.assert_close(objective(found.latent), torch.tensor([found.loss]))


def test_one_restart_is_the_search_itself_and_the_first_of_several():
    one, three = AttackSettings(), AttackSettings(restarts=3)

    alone = searcher_of(one, RawLatentSpace(3), budget=600, seed=4)
    first = searcher_of(three, RawLatentSpace(3), budget=600, seed=4)

    population = alone.preferred_population
    assert first.preferred_population == population
    points = [
        first.ask(population),
        first.tell(np.empty((0, 3)), np.arange(population, dtype=float)),
    ]
    np.testing.assert_array_equal(points[0], alone.ask(population))
    assert not np.array_equal(points[0], first.ask(population))


def test_a_budget_without_room_for_a_generation_of_each_is_refused(knowledge):
    with pytest.raises(
        PlanError, match=r"at least \d+, a generation of \d+ for each of 9 restarts"
    ):
        check_settings(AttackSettings(restarts=9), knowledge, budget=70)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": 0}, "restarts to be a whole number >= 1"),
        ({"scheduler": "asha", "restarts": 2}, "one of: none, halving, median"),
        ({"scheduler": "halving"}, "at least 2 restarts with scheduler: halving, got restarts: 1"),
        ({"scheduler": "median", "restarts": 3}, "at least 4 restarts"),
    ],
)
def test_restarts_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(PlanError, match=message):
        AttackSettings(**settings)


def test_restarts_are_of_one_search_not_of_single_candidates():
    settings = AttackSettings(searcher="random", restarts=2)

    with pytest.raises(PlanError, match="one search of each update, got restarts: 2"):
        check_candidates(settings, RawLatentSpace(2))


def test_candidates_by_tune_have_no_limit_of_time():
    with pytest.raises(PlanError, match="Expected no max_seconds with compute"):
        check_candidates(AttackSettings(searcher="random", max_seconds=2), RawLatentSpace(2))


def test_another_searcher_starts_once():
    settings = AttackSettings(restarts=4, scheduler="halving").with_searcher("random")

    assert settings == dataclasses.replace(AttackSettings(), searcher="random")


class TestRestarts(SearcherContract):
    """Restarts are a searcher like any other."""

    name = "sepcma"
    dims = (1, 2, 128)

    def make(self, *, seed, dim=4, budget=64, **settings):
        settings = AttackSettings(restarts=4, scheduler="halving", searcher_settings=settings)
        space = RawLatentSpace(dim)
        return searcher_of(settings, space, budget=max(budget, 4 * 64), seed=seed)


class TestHypotheses(SearcherContract):
    """Searches of several hypotheses of the labels are a searcher like any other, too."""

    name = "gauss_newton"
    dims = (2, 3, 128)

    def make(self, *, seed, dim=4, budget=64, **settings):
        settings = AttackSettings(label_hypotheses=3, searcher_settings=settings)
        space = LabelledSpace(RawLatentSpace(dim - 1), 3)
        return searcher_of(settings, space, budget=max(budget, 3 * 64), seed=seed)
