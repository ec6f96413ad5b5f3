"""What every latent searcher promises. Subclass, name it, and the tests run.

Agreement in another process is tested for all subclasses by one process, which runs this file.
"""

import hashlib
import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

from engine.attacks.searchers import make_searcher

DIM = 4
BUDGET = 64


def bowl(points):
    return ((points - 0.5) ** 2).sum(axis=1)


def digest(name):
    """Returns a hash of everything a searcher asks in four rounds on a bowl."""
    searcher = make_searcher(name, dim=DIM, budget=BUDGET, seed=11)
    asked = hashlib.sha256()
    for _ in range(4):
        points = searcher.ask(searcher.preferred_population)
        asked.update(points.tobytes())
        searcher.tell(points, bowl(points))
    return asked.hexdigest()


_digests: dict[str, str] = {}


def digest_elsewhere(name):
    """Returns :func:`digest` as another process computes it."""
    if not _digests:
        names = [row.name for row in SearcherContract.__subclasses__()]
        command = [sys.executable, "-W", "ignore", "-m", "tests.contracts.searcher", *names]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        _digests.update(json.loads(ran.stdout))
    return _digests[name]


class SearcherContract:
    name: ClassVar[str]

    def make(self, *, seed):
        return make_searcher(self.name, dim=DIM, budget=BUDGET, seed=seed)

    def rounds(self, searcher, count):
        """Runs ``count`` rounds on the bowl; returns the points asked and the losses told."""
        asked, told = [], []
        for _ in range(count):
            points = searcher.ask(searcher.preferred_population)
            losses = bowl(points)
            searcher.tell(points, losses)
            asked.append(points.copy())
            told.append(losses)
        return asked, told

    def test_ask_returns_exactly_the_requested_points(self):
        searcher = self.make(seed=0)

        for candidates in (1, 5, 3, searcher.preferred_population):
            points = searcher.ask(candidates)
            searcher.tell(points, bowl(points))

            assert points.shape == (candidates, DIM)
            assert points.dtype == np.float64
            assert np.isfinite(points).all()
            assert searcher.view == "normal" or ((points >= 0) & (points <= 1)).all()

    def test_prefers_a_population_of_at_least_one(self):
        assert self.make(seed=0).preferred_population >= 1
        assert self.make(seed=0).view in ("normal", "unit")

    def test_points_of_one_ask_differ(self):
        searcher = self.make(seed=0)
        searcher.tell(searcher.ask(1), np.ones(1))

        assert len(np.unique(searcher.ask(8), axis=0)) == 8

    def test_tell_leaves_the_callers_arrays_alone(self):
        searcher = self.make(seed=0)
        points, losses = searcher.ask(8), np.arange(8.0)[::-1].copy()
        points_before, losses_before = points.copy(), losses.copy()

        searcher.tell(points, losses)

        np.testing.assert_array_equal(points, points_before)
        np.testing.assert_array_equal(losses, losses_before)

    def test_the_callers_arrays_are_not_kept(self):
        kept, overwritten = self.make(seed=3), self.make(seed=3)

        for _ in range(3):
            points, same = kept.ask(8), overwritten.ask(8)
            np.testing.assert_array_equal(points, same)
            losses = bowl(points)
            kept.tell(points, losses.copy())
            overwritten.tell(same, losses)
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
        assert digest_elsewhere(self.name) == digest(self.name)

    def test_the_global_random_state_is_neither_read_nor_moved(self):
        np.random.seed(1)  # noqa: NPY002
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        first, _ = self.rounds(self.make(seed=7), 2)
        moved = not np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
        np.random.seed(2)  # noqa: NPY002
        second, _ = self.rounds(self.make(seed=7), 2)

        assert not moved
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("rounds", [1, 3])
    def test_told_its_losses_again_a_new_searcher_asks_the_same_next_points(self, rounds):
        searcher, restored = self.make(seed=7), self.make(seed=7)
        _, told = self.rounds(searcher, rounds)

        for losses in told:
            restored.tell(restored.ask(len(losses)), losses)

        np.testing.assert_array_equal(searcher.ask(8), restored.ask(8))

    @pytest.mark.parametrize("losses", [np.zeros(8), np.full(8, 1e15), np.arange(8.0) - 1e6])
    def test_survives_ties_and_extreme_losses(self, losses):
        searcher = self.make(seed=0)

        for _ in range(4):
            searcher.tell(searcher.ask(8), losses)

        assert np.isfinite(searcher.ask(8)).all()


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: digest(name) for name in sys.argv[1:]}))
