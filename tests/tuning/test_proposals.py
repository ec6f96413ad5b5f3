import random

import numpy as np
import pytest
from ray.tune.search import BasicVariantGenerator, Searcher

from engine.attacks import AttackSettings
from engine.tuning.algorithms import make_algorithm
from engine.tuning.candidate_log import CandidateLog
from engine.tuning.fan_out import WORKER_LOSSES
from engine.tuning.proposals import Proposals
from search_spaces.latent_spaces import make_space
from search_spaces.native import to_points, to_tune

BUDGET = 30
SEARCHERS = ["random", "optuna:TPE", "optuna:CmaEs", "nevergrad:DiagonalCMA", "ax:Sobol"]


@pytest.fixture
def space():
    return make_space("gaussian", latent_dim=3, images=1)


class Recording(Searcher):
    """Counts up, and remembers what it is told."""

    def __init__(self):
        super().__init__(metric="loss", mode="min")
        self.told = []
        self.asked = 0

    def suggest(self, trial_id):
        self.asked += 1
        return {"z0": self.asked / 100}

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.told.append(result["loss"])


def propose(algorithm, generation, path, *, budget=BUDGET):
    log = CandidateLog(path / "candidates.jsonl", "spec", budget)
    proposals = Proposals(algorithm, generation=generation, log=log, on_progress=lambda *_: None)
    proposals.advance()
    return proposals, log


def work(proposals, loss_of, *, workers=1, candidates=BUDGET, seed=0):
    """Evaluates candidates as Tune does with ``workers``, which are done in any order."""
    rng, running, evaluated = random.Random(seed), {}, 0
    while evaluated < candidates:
        while len(running) < workers:
            name = f"trial{evaluated}-{len(running)}-{rng.random()}"
            suggestion = proposals.suggest(name)
            if suggestion in (None, Searcher.FINISHED):
                break
            running[name] = suggestion
        if not running:
            break
        name = rng.choice(sorted(running))
        suggestion = running.pop(name)
        proposals.on_trial_complete(name, {"loss": loss_of(suggestion)})
        evaluated += 1
    return evaluated


def raiser(error):
    def call(*_):
        raise error

    return call


def bowl(suggestion):
    return float(np.float32(sum((value - 0.3) ** 2 for value in suggestion.values())))


def algorithm_of(name, space):
    settings = AttackSettings(searcher=name)
    return make_algorithm(settings, space, budget=BUDGET, seed=5)


@pytest.mark.parametrize("name", SEARCHERS)
def test_neither_workers_nor_their_order_move_what_is_proposed(name, space, tmp_path):
    found = []
    for workers in (1, 4):
        folder = tmp_path / str(workers)
        folder.mkdir()
        proposals, log = propose(*algorithm_of(name, space), folder)

        assert work(proposals, bowl, workers=workers) == BUDGET
        assert proposals.failure is None
        found.append((to_points(space, proposals.suggestions), log.losses))

    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert len(np.unique(found[0][0], axis=0)) == BUDGET


@pytest.mark.parametrize("name", SEARCHERS)
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(name, space, tmp_path):
    (tmp_path / "whole").mkdir()
    whole, log = propose(*algorithm_of(name, space), tmp_path / "whole")
    work(whole, bowl)
    stopped, _ = propose(*algorithm_of(name, space), tmp_path)
    spent = work(stopped, bowl, workers=3, candidates=17)

    resumed, resumed_log = propose(*algorithm_of(name, space), tmp_path)

    assert work(resumed, bowl) == BUDGET - spent
    assert resumed.suggestions == whole.suggestions
    np.testing.assert_array_equal(resumed_log.losses, log.losses)


def test_a_finished_search_proposes_all_again_and_hands_out_nothing(space, tmp_path):
    first, _ = propose(*algorithm_of("optuna:TPE", space), tmp_path)
    work(first, bowl)

    again, log = propose(*algorithm_of("optuna:TPE", space), tmp_path)

    assert log.known.all()
    assert again.suggest("any") == Searcher.FINISHED
    assert again.suggestions == first.suggestions


def test_random_search_draws_what_tunes_own_generator_draws(space):
    search, _ = algorithm_of("random", space)
    own = BasicVariantGenerator(random_state=clone(search._rng))
    own.add_configurations(
        {"any": {"run": lambda config: None, "config": to_tune(space), "num_samples": 5}}
    )

    drawn = [search.suggest(str(place)) for place in range(5)]

    assert drawn == [own.next_trial().config for _ in range(5)]


def clone(rng):
    copy = np.random.default_rng()
    copy.bit_generator.state = rng.bit_generator.state
    return copy


def test_a_generation_is_told_in_the_order_proposed_when_all_of_it_is_known(tmp_path):
    algorithm = Recording()
    proposals, _ = propose(algorithm, 3, tmp_path, budget=5)

    first = [proposals.suggest(name) for name in "abc"]
    assert proposals.suggest("d") is None
    for name, loss in (("c", 3.0), ("a", 1.0)):
        proposals.on_trial_complete(name, {"loss": loss})
    assert algorithm.told == []
    proposals.on_trial_complete("b", {"loss": 2.0})

    assert algorithm.told == [1.0, 2.0, 3.0]
    assert first == [{"z0": 0.01}, {"z0": 0.02}, {"z0": 0.03}]
    assert algorithm.asked == 5


def test_losses_that_are_not_finite_are_told_as_the_worst_of_their_generation(tmp_path):
    algorithm = Recording()
    proposals, _ = propose(algorithm, 3, tmp_path, budget=6)

    losses = {0.01: float("nan"), 0.02: 7.0, 0.03: 2.0}
    work(proposals, lambda point: losses.get(point["z0"], float("inf")), candidates=6)

    assert algorithm.told == [7.0, 7.0, 2.0, 3.0, 3.0, 3.0]


def test_a_candidate_that_fails_ends_the_search(tmp_path):
    proposals, log = propose(Recording(), 3, tmp_path)
    proposals.suggest("a")
    failure = {"error": "ValueError: no", "traceback": "where"}

    proposals.on_trial_complete("a", {"loss": float("nan")} | failure)

    assert proposals.failure == failure
    assert proposals.suggest("b") == Searcher.FINISHED
    assert not log.known.any()


def test_a_candidate_whose_worker_was_lost_is_the_next_one(tmp_path):
    proposals, _ = propose(Recording(), 3, tmp_path)
    first = proposals.suggest("a")
    second = proposals.suggest("b")

    proposals.on_trial_complete("a", None, error=True)

    assert proposals.suggest("c") == first != second
    assert proposals.failure is None


def test_a_candidate_whose_workers_are_lost_too_often_ends_the_search(tmp_path):
    proposals, log = propose(Recording(), 3, tmp_path)
    for loss in range(WORKER_LOSSES + 1):
        assert proposals.failure is None
        proposals.suggest(f"trial{loss}")
        proposals.on_trial_complete(f"trial{loss}", None, error=True)

    assert proposals.failure["error"] == "worker lost"
    assert proposals.suggest("next") == Searcher.FINISHED
    assert not log.known.any()


def test_storage_that_fails_ends_the_search_and_raises_nothing_that_tune_would_handle(
    tmp_path, monkeypatch
):
    proposals, log = propose(Recording(), 3, tmp_path)
    proposals.suggest("a")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(log, "add", raiser(full))

    proposals.on_trial_complete("a", {"loss": 1.0})

    assert proposals.error is full
    assert proposals.failure is None
    assert proposals.suggest("b") == Searcher.FINISHED


def test_an_algorithm_that_fails_ends_the_search_and_is_named(tmp_path):
    class Broken(Recording):
        def suggest(self, trial_id):
            raise OSError("no more")

    proposals, _ = propose(Broken(), 3, tmp_path)

    assert proposals.failure["error"] == "OSError: no more"
    assert "Traceback" in proposals.failure["traceback"]


def test_a_candidate_that_was_stopped_before_its_loss_is_not_known(tmp_path):
    proposals, log = propose(Recording(), 3, tmp_path)
    proposals.suggest("a")

    proposals.on_trial_complete("a", {})

    assert not log.known.any()
    assert proposals.failure is None
