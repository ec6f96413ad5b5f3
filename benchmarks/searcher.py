"""What a searcher's ask and tell cost beside the evaluation of a generation."""

from typing import Any

import torch

from benchmarks.cases import make_case
from benchmarks.timing import Timing, time_in_turn
from engine.attacks import AttackSettings, GradientMatchingObjective
from engine.attacks.searchers import make_searcher
from engine.attacks.searchers.base import DetailSearcher
from search_spaces import make_space

SHARE = 0.10  # Largest share of a generation aimed at.


def measure_searcher(
    name: str, objective: GradientMatchingObjective, *, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Returns the share of a generation that a searcher takes, in its own population.

    Args:
        name: As in a plan, e.g. ``sepcma``.
        objective: What it searches.
        rounds: Generations timed.
        device: Where candidates are evaluated.
    """
    width = objective.knowledge.latent_dim * len(objective.labels)
    searcher = make_searcher(name, dim=width, budget=10**6, seed=0)
    space, population = make_space("gaussian", latent_dim=width), searcher.preferred_population
    state: dict[str, Any] = {}

    def ask() -> None:
        state["points"] = searcher.ask(population)

    def evaluate() -> None:
        latents = space.to_latents(torch.from_numpy(state["points"]), searcher.view)
        wanted = searcher.wants if isinstance(searcher, DetailSearcher) else None
        scores = objective.scores(latents.float().to(device), wanted)
        state["losses"] = scores.losses.cpu().double().numpy()
        state["details"] = None if scores.details is None else scores.details.cpu().numpy()

    def tell() -> None:
        if state["details"] is None:
            searcher.tell(state["points"], state["losses"])
        else:
            assert isinstance(searcher, DetailSearcher)
            searcher.tell_details(state["points"], state["losses"], state["details"])

    timings = time_in_turn(
        {"ask": ask, "evaluate": evaluate, "tell": tell}, rounds=rounds, device=device
    )
    own = Timing(
        tuple(a + b for a, b in zip(timings["ask"].seconds, timings["tell"].seconds, strict=True))
    )
    whole = Timing(
        tuple(a + b for a, b in zip(own.seconds, timings["evaluate"].seconds, strict=True))
    )
    return {
        "searcher_share": own.over(whole),
        "searcher_s": own.median,
        "generation_s": whole.median,
        "population": population,
        "dim": width,
        "targets": {"searcher_share": SHARE},
    }


def objectives(device: torch.device) -> dict[str, GradientMatchingObjective]:
    """Returns what is searched: the embedded default, and a ResNet-18 behind a DCGAN."""
    settings = {"embedded": "lenet", "resnet18-torchvision": "resnet18-torchvision"}
    return {
        name: make_case(f"{setting}/squared_l2", population=8, device=device).objective
        for name, setting in settings.items()
    }


def default_searcher() -> str:
    """Returns the searcher of the default preset."""
    return AttackSettings().searcher
