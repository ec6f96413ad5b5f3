"""What losses with their gradients cost: what attacks that differentiate need."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, make_case
from benchmarks.timing import time_in_turn
from engine.attacks import Evaluation, evaluate_together
from engine.federation import compute_update

SEARCHES = 16


def measure_gradients(
    name: str, *, population: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Returns the ratios of one case, through its generator.

    Among them what it is worth that ``SEARCHES`` share the population and are evaluated together.

    Args:
        name: ``setting/variant``.
        population: Candidates ``C``.
        rounds: How often each contestant is timed.
        device: Where.
    """
    case = make_case(name, population=population, device=device)
    searches = [
        Evaluation(case.objective, latents, "gradients")
        for latents in case.latents.tensor_split(min(SEARCHES, population))
    ]
    timings = time_in_turn(
        {
            "ours": lambda: case.objective.scores(case.latents, "gradients"),
            "losses": lambda: case.objective(case.latents),
            "vmap": lambda: by_vmap(case),
            "together": lambda: evaluate_together(searches),
            "apart": lambda: [evaluate_together([one]) for one in searches],
        },
        rounds=rounds,
        device=device,
    )
    ours, gradients = timings["ours"], case.objective.scores(case.latents, "gradients").details
    assert gradients is not None
    expected = by_vmap(case)
    return {
        "speedup_vs_vmap": timings["vmap"].over(ours),
        "cost_vs_losses": ours.over(timings["losses"]),
        "speedup_together": timings["apart"].over(timings["together"]),
        "max_relative_error": float((gradients - expected).norm() / expected.norm()),
        "candidates_per_s": population / ours.median,
        "population": population,
        "targets": {},
    }


@torch.enable_grad()
def by_vmap(case: Case) -> Tensor:
    """Returns the gradients ``(C, d)`` through explicit updates by ``vmap(grad)``."""
    objective, latents = case.objective, case.latents.clone().requires_grad_()
    known = objective.knowledge
    labels = objective.decoder.labels(latents)
    updates = compute_update(
        known.model,
        known.generate(objective.decoder.codes(latents), labels),
        labels,
        images_per_client=len(objective.labels),
        differentiable=True,
    )
    losses = objective.distance(objective.imitate(updates), objective.observed)
    [gradients] = torch.autograd.grad(losses.sum(), [latents])
    return gradients
