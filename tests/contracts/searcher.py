"""What every latent searcher promises. Subclass, name it, and the tests run.

Agreement in another process is tested for all subclasses of one speed by one process, which runs
this file.
"""

import hashlib
import json
import random
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from engine.attacks.searchers import make_searcher
from engine.attacks.searchers.base import DetailSearcher

DIM = 4
BUDGET = 64


def bowl(points):
    return ((points - 0.5) ** 2).sum(axis=1)


def tell(searcher, points, losses):
    """Tells losses, and what is wanted beside them: sketches or gradients of the bowl.

    Its sketches are those whose squared length it is.
    """
    if isinstance(searcher, DetailSearcher) and searcher.wants:
        scale = {"sketches": 1, "gradients": 2}[searcher.wants]
        details = (scale * (points - 0.5)).astype(np.float32)
        searcher.tell_details(points, losses, details)
        details[:] = 99.0  # They are the caller's, who may use them again.
    else:
        searcher.tell(points, losses)


def digest(name):
    """Returns a hash of everything a searcher asks in four rounds on a bowl."""
    searcher = make_searcher(name, dim=DIM, budget=BUDGET, seed=11)
    asked = hashlib.sha256()
    for _ in range(4):
        points = searcher.ask(searcher.preferred_population)
        asked.update(points.tobytes())
        tell(searcher, points, bowl(points))
    return asked.hexdigest()


_digests: dict[str, str] = {}


def digest_elsewhere(name, slow):
    """Returns :func:`digest` as another process computes it."""
    if name not in _digests:
        names = [row.name for row in SearcherContract.__subclasses__() if row.slow == slow]
        command = [sys.executable, "-W", "ignore", "-m", "tests.contracts.searcher", *names]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
        _digests.update(json.loads(ran.stdout))
    return _digests[name]


def global_states():
    """Returns the states of the three random generators that anyone may draw from."""
    numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()


class SearcherContract:
    """The promises, each a test.

    Attributes:
        name: As in a plan.
        slow: Whether the row takes more than a few seconds and is marked so.
        dims: Dimensions it is asked in, besides 4: the smallest, and one beyond 300, where
            libraries change their ways. Fewer where that would take minutes.
    """

    name: ClassVar[str]
    slow: ClassVar[bool] = False
    dims: ClassVar[tuple[int, ...]] = (1, 2, 512)

    def make(self, *, seed, dim=DIM, budget=BUDGET, **settings):
        return make_searcher(self.name, dim=dim, budget=budget, seed=seed, **settings)

    def assert_inside(self, points, searcher, dim=DIM):
        assert points.shape[1] == dim
        assert np.isfinite(points).all()
        assert searcher.view == "normal" or ((points >= 0) & (points <= 1)).all()

    def rounds(self, searcher, count):
        """Runs ``count`` rounds on the bowl; returns the points asked and the losses told."""
        asked, told = [], []
        for _ in range(count):
            points = searcher.ask(searcher.preferred_population)
            losses = bowl(points)
            tell(searcher, points, losses)
            asked.append(points.copy())
            told.append(losses)
        return asked, told

    def test_ask_returns_exactly_the_requested_points(self):
        searcher = self.make(seed=0)

        for candidates in (1, 5, 3, searcher.preferred_population):
            points = searcher.ask(candidates)
            tell(searcher, points, bowl(points))

            assert points.shape == (candidates, DIM)
            assert points.dtype == np.float64
            self.assert_inside(points, searcher)

    def test_prefers_a_population_of_at_least_one(self):
        assert self.make(seed=0).preferred_population >= 1
        assert self.make(seed=0).view in ("normal", "unit")

    def test_points_of_one_ask_differ(self):
        searcher = self.make(seed=0)
        tell(searcher, searcher.ask(1), np.ones(1))

        assert len(np.unique(searcher.ask(8), axis=0)) == 8

    def test_tell_leaves_the_callers_arrays_alone(self):
        searcher = self.make(seed=0)
        points, losses = searcher.ask(8), np.arange(8.0)[::-1].copy()
        points_before, losses_before = points.copy(), losses.copy()

        tell(searcher, points, losses)

        np.testing.assert_array_equal(points, points_before)
        np.testing.assert_array_equal(losses, losses_before)

    def test_the_callers_arrays_are_not_kept(self):
        kept, overwritten = self.make(seed=3), self.make(seed=3)

        for _ in range(3):
            points, same = kept.ask(8), overwritten.ask(8)
            np.testing.assert_array_equal(points, same)
            losses = bowl(points)
            tell(kept, points, losses.copy())
            tell(overwritten, same, losses)
            same[:], losses[:] = 99.0, -1.0

    def test_equal_seeds_agree(self):
        first, _ = self.rounds(self.make(seed=7), 4)
        second, _ = self.rounds(self.make(seed=7), 4)

        np.testing.assert_array_equal(first, second)

    def test_different_seeds_differ(self):
        first, _ = self.rounds(self.make(seed=0), 2)
        second, _ = self.rounds(self.make(seed=1), 2)

        assert not np.array_equal(first, second)

    def test_seeds_of_63_bits_are_taken(self):
        self.make(seed=2**63 - 1).ask(2)

    def test_agrees_in_another_process(self):
        assert digest_elsewhere(self.name, self.slow) == digest(self.name)

    def test_global_random_states_are_neither_read_nor_moved(self):
        found = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            before = global_states()
            asked, _ = self.rounds(self.make(seed=7), 2)
            assert global_states() == before
            found.append(asked)

        np.testing.assert_array_equal(*found)

    @pytest.mark.parametrize("rounds", [1, 3])
    def test_told_its_losses_again_a_new_searcher_asks_the_same_next_points(self, rounds):
        searcher, restored = self.make(seed=7), self.make(seed=7)
        _, told = self.rounds(searcher, rounds)

        for losses in told:
            tell(restored, restored.ask(len(losses)), losses)

        np.testing.assert_array_equal(searcher.ask(8), restored.ask(8))

    @pytest.mark.parametrize("losses", [np.zeros(8), np.full(8, 1e15), np.arange(8.0) - 1e6])
    def test_survives_ties_and_extreme_losses(self, losses):
        searcher = self.make(seed=0)

        for _ in range(4):
            tell(searcher, searcher.ask(8), losses)

        self.assert_inside(searcher.ask(8), searcher)

    def test_searches_in_any_dimension(self):
        for dim in self.dims:
            searcher = self.make(seed=0, dim=dim)
            for _ in range(3):
                points = searcher.ask(searcher.preferred_population)
                self.assert_inside(points, searcher, dim)
                tell(searcher, points, bowl(points))

    def test_learns_from_one_candidate_at_a_time(self):
        settings = {} if self.name == "random" else {"population": 1}
        searcher = self.make(seed=0, **settings)

        for _ in range(25):
            points = searcher.ask(1)
            self.assert_inside(points, searcher)
            tell(searcher, points, bowl(points))

    @pytest.mark.parametrize("budget", [1, 3])
    def test_a_budget_may_be_smaller_than_the_population(self, budget):
        searcher = self.make(seed=0, budget=budget)

        points = searcher.ask(budget)
        tell(searcher, points, bowl(points))

        self.assert_inside(points, searcher)

    def test_survives_an_objective_that_is_constant(self):
        searcher = self.make(seed=0)

        for _ in range(5):
            points = searcher.ask(searcher.preferred_population)
            self.assert_inside(points, searcher)
            tell(searcher, points, np.full(len(points), 0.25))


if __name__ == "__main__":
    torch.set_num_threads(1)  # As in the tests: sums of floats depend on how many there are.
    sys.stdout.write(json.dumps({name: digest(name) for name in sys.argv[1:]}))
