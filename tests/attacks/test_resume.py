"""A search killed after some generation goes on, in another process, as if nothing had happened.

For every listed searcher. All those of one speed are restored by one process, which runs this file.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.attacks import PRESETS, ThreatKnowledge, prepare_objective, run_search
from engine.attacks.searchers import list_searchers, make_searcher
from engine.federation import compute_update, find_head
from engine.run_folder.history_file import NOTHING, HistoryKeeper, load_history
from search_spaces import GaussianLatentSpace
from tests.conftest import CLASSES, IMAGE_SHAPE, LATENT_DIM, TinyGenerator, TinyNet, build

SLOW = ("ax:BO", "ax:Sobol", "optuna:GP", "turbo")
NAMES = [row.name for row in list_searchers() if row.available]
# Evaluations after which the search is killed, at least; by a budget of twice as many. A descent of
# gauss_newton has 48 with details and 192 without, then another one begins.
KILLED_AFTER = {"gauss_newton": (30, 100, 250)}
USUALLY = (40,)
IN_SLOW = (10,)


class KilledError(Exception):
    """Stands for the end of the process; what happens to files is tested with processes."""


class Spied:
    """An objective that notes the latents it is asked of."""

    def __init__(self, objective):
        self.objective, self.latents = objective, []

    def __call__(self, latents):
        self.latents.append(latents.numpy())
        return self.objective(latents)

    def scores(self, latents, wanted):
        self.latents.append(latents.numpy())
        return self.objective.scores(latents, wanted)


def planted():
    """The loss of a tiny attack on an update whose latent is known."""
    model, generator, label = build(TinyNet, 1), build(TinyGenerator, 2), torch.tensor([2])
    knowledge = ThreatKnowledge(
        model=model,
        head=find_head(model, IMAGE_SHAPE),
        classes=CLASSES,
        generate=generator,
        latent_dim=LATENT_DIM,
        defense_kinds=("none",),
    )
    image = generator(torch.tensor([[0.3, -0.7, 0.9]]), label)
    return prepare_objective(compute_update(model, image, label), knowledge, PRESETS["default"])


def search(name, budget, *, known=NOTHING, on_batch=lambda _: None):
    """Returns the latents that were evaluated ``(N, d)`` and all losses ``(budget,)``."""
    spied = Spied(planted())
    searcher = make_searcher(name, dim=LATENT_DIM, budget=budget, seed=5)
    found = run_search(
        spied,
        searcher,
        GaussianLatentSpace(LATENT_DIM),
        budget=budget,
        population=min(searcher.preferred_population, budget // 4),
        known=known,
        on_batch=on_batch,
    )
    return np.concatenate(spied.latents), found.losses


def kills_of(name):
    return KILLED_AFTER.get(name, IN_SLOW if name in SLOW else USUALLY)


def begin(name, after, folder):
    """Searches, keeping the history in a folder, until the kill."""
    keeper = HistoryKeeper(folder, "spec", NOTHING)

    def keep(progress):
        keeper.keep(progress)
        if progress.evaluations >= after:
            raise KilledError

    with pytest.raises(KilledError):
        search(name, 2 * after, on_batch=keep)


def folder_of(name, after, home):
    return home / f"{re.sub('[^a-zA-Z]', '-', name)}-{after}"


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """What another process finds that restores the searches, by name and kill, quick or slow."""
    found = {}

    def of(name, after):
        slow = name in SLOW
        if slow not in found:
            home = found[slow] = tmp_path_factory.mktemp("slow" if slow else "quick")
            names = [one for one in NAMES if (one in SLOW) == slow]
            for one in names:
                for kill in kills_of(one):
                    begin(one, kill, folder_of(one, kill, home))
            command = [sys.executable, "-W", "ignore", "-m", "tests.attacks.test_resume", str(home)]
            subprocess.run([*command, *names], check=True, timeout=280)
        folder = folder_of(name, after, found[slow])
        return np.load(folder / "latents.npy"), np.load(folder / "losses.npy")

    return of


@pytest.mark.parametrize(
    ("name", "after"),
    [
        pytest.param(name, after, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in NAMES
        for after in kills_of(name)
    ],
)
def test_a_killed_search_goes_on_in_another_process_point_for_point(name, after, restored):
    latents, losses = search(name, 2 * after)

    rest, resumed = restored(name, after)

    assert 0 < len(rest) <= after
    np.testing.assert_array_equal(rest, latents[-len(rest) :])
    np.testing.assert_array_equal(resumed, losses)


def test_every_slow_searcher_is_listed():
    assert set(SLOW) <= {row.name for row in list_searchers()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[2:]:
        for at in kills_of(each):
            place = folder_of(each, at, Path(sys.argv[1]))
            latents, losses = search(each, 2 * at, known=load_history(place, "spec"))
            np.save(place / "latents.npy", latents)
            np.save(place / "losses.npy", losses)
