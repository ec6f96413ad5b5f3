"""What a searcher's ask and tell cost beside the evaluation of a generation."""

from typing import Any

import torch

from benchmarks.cases import make_case
from benchmarks.timing import Timing, time_in_turn
from engine import assets
from engine.attacks import AttackSettings, GradientMatchingObjective, ThreatKnowledge
from engine.attacks.distances import squared_l2
from engine.attacks.searchers import make_searcher
from engine.defenses import DEFENSES
from engine.federation import compute_update, find_head, make_target_model
from engine.generators import load_generator
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
        state["losses"] = objective(latents.float().to(device)).cpu().double().numpy()

    def tell() -> None:
        searcher.tell(state["points"], state["losses"])

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
    return {
        "embedded": _embedded(device),
        "resnet18-torchvision": make_case(
            "resnet18-torchvision/squared_l2", population=8, device=device
        ).objective,
    }


def default_searcher() -> str:
    """Returns the searcher of the default preset."""
    return AttackSettings().searcher


def _embedded(device: torch.device) -> GradientMatchingObjective:
    generator = load_generator(assets.asset("fashion-mnist", "generator")).to(device)
    shape, classes = generator.image_shape, generator.classes
    model = make_target_model("lenet", image_shape=shape, classes=classes, seed=0).to(device)
    head, label = find_head(model, shape), torch.zeros(1, dtype=torch.long, device=device)
    with torch.no_grad():
        image = generator(torch.ones(1, generator.latent_dim, device=device), label)
    observed = compute_update(model, image, label)
    return GradientMatchingObjective(
        observed=observed,
        labels=(0,),
        knowledge=ThreatKnowledge(
            model=model,
            head=head,
            classes=classes,
            generate=generator,
            latent_dim=generator.latent_dim,
            defense_kinds=("none",),
        ),
        imitate=DEFENSES.make("none").estimate(observed, head=head),
        distance=squared_l2,
    )
