"""A trial whose candidates are proposed elsewhere: their losses one by one, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.attacks import GradientMatchingObjective, History, prepare_objective, run_steps
from engine.attacks.attack import searched_space
from engine.attacks.candidates import RecordedSearcher
from engine.trial.parts import Lab, TrialResult, TrialSpec
from engine.trial.trial import knowledge_of, observe, search_seed, trial_steps, victim_of
from search_spaces.latent import LatentSpace
from search_spaces.native import to_point


@dataclass(frozen=True)
class Problem:
    """What a search of a trial minimises, and where; it scores nothing against private images."""

    objective: GradientMatchingObjective
    space: LatentSpace

    def loss_of(self, suggestion: Mapping[str, float]) -> float:
        """Returns the loss of one candidate, given by the names of its coordinates."""
        point = torch.from_numpy(to_point(self.space, suggestion))[None]
        device = next(iter(self.objective.observed.tensors.values())).device
        latent = self.space.to_latents(point, "unit").float().to(device)
        return float(self.objective.loss_alone(latent))


def problem_of(spec: TrialSpec, lab: Lab) -> Problem:
    """Returns the problem that a trial that is a search has to solve."""
    observed, _ = observe(spec, lab, victim_of(spec, lab))
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    return Problem(objective, searched_space(objective, spec.settings, seed=search_seed(spec)))


def conclude_trial(
    spec: TrialSpec, lab: Lab, *, points: np.ndarray, losses: np.ndarray
) -> TrialResult:
    """Scores a search whose candidates were all proposed and evaluated elsewhere.

    Args:
        spec: The trial.
        lab: What it shares with others.
        points: Every candidate in the unit view, ``(budget, dim)``.
        losses: Their losses, ``(budget,)``.
    """
    steps = trial_steps(spec, lab, History(losses), searcher=RecordedSearcher(points))
    return run_steps(steps)
