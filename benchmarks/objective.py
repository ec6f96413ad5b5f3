"""What scoring a population costs: against one at a time, against vmap, against a training step."""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, make_case
from benchmarks.timing import time_in_turn
from engine.federation import Update, compute_update
from engine.federation.client import batch_loss

# Candidates whose losses are compared with those in double precision.
CHECKED: Final = 4
# Bytes that the updates of one chunk under vmap may take.
VMAP_BYTES: Final = 2**30
SEARCH: Final = 25_000


def measure_objective(
    name: str, *, population: int, rounds: int, sequential: int, device: torch.device
) -> dict[str, Any]:
    """Returns the ratios of one case.

    Args:
        name: ``setting/variant``.
        population: Candidates ``C``.
        rounds: How often each contestant is timed.
        sequential: How many candidates are scored one at a time; the time is scaled to ``C``.
        device: Where.
    """
    case = make_case(name, population=population, device=device)
    whole, matching = case.objective, case.of_images()
    sequential = min(sequential, population)
    timings = time_in_turn(
        {
            "ours": lambda: whole(case.latents),
            "ours_without_generator": lambda: matching(case.latents),
            "training_step": lambda: training_step(case),
            "sequential": lambda: [score_alone(case, place) for place in range(sequential)],
            "vmap": lambda: score_by_vmap(case),
        },
        rounds=rounds,
        device=device,
    )
    ours = timings["ours"]
    found = {
        "speedup_vs_sequential": timings["sequential"].over(ours) * population / sequential,
        "speedup_vs_vmap": timings["vmap"].over(ours),
        "cost_vs_training_step": timings["ours_without_generator"].over(timings["training_step"]),
        "candidates_per_s": population / ours.median,
        "seconds_per_25000": SEARCH / population * ours.median,
        **{f"{key}_s": timing.median for key, timing in timings.items()},
        **measure_error(case),
        "path": whole.path,
        "population": population,
        "targets": {"speedup_vs_sequential": case.speedup, "cost_vs_training_step": case.cost},
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        whole(case.latents)
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def training_step(case: Case) -> tuple[Tensor, ...]:
    """Returns the gradients of one plain forward and backward pass on the population's images."""
    model = case.objective.knowledge.model
    loss = batch_loss(model(case.images), case.labels)
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def score_alone(case: Case, place: int) -> float:
    """Returns one candidate's loss as GGL computes it: images, gradients, their distance."""
    with torch.no_grad():
        images = case.objective.generate(case.latents[place, None])
    return _score_images(case, case.objective.knowledge.model, images)


def score_by_vmap(case: Case) -> Tensor:
    """Returns all losses from explicit updates by ``vmap(grad)``, in chunks."""
    objective = case.objective
    with torch.no_grad():
        images = objective.generate(case.latents)
    each = len(objective.labels)
    step = max(1, VMAP_BYTES // (4 * objective.observed.parameters())) * each
    losses = []
    for some, labels in zip(images.split(step), case.labels.split(step), strict=True):
        updates = compute_update(objective.knowledge.model, some, labels, images_per_client=each)
        losses.append(objective.distance(objective.imitate(updates), objective.observed))
    return torch.cat(losses)


def measure_error(case: Case) -> dict[str, float]:
    """Returns the largest errors relative to losses one at a time in double precision.

    Ours and, beside it, that of one-at-a-time scoring in single precision: of random candidates
    and of such that lie 0.001 from the truth.
    """
    model = case.objective.knowledge.model
    double = copy.deepcopy(model).double()
    found: dict[str, float] = {}
    for where, latents in (("", case.latents[:CHECKED]), ("_near_truth", case.near[:CHECKED])):
        with torch.no_grad():
            images = case.objective.generate(latents).chunk(len(latents))
        true = [_score_images(case, double, some.double()) for some in images]
        contestants = {
            "max_relative_error": case.objective(latents).tolist(),
            "sequential_relative_error": [_score_images(case, model, some) for some in images],
        }
        for name, losses in contestants.items():
            errors = [abs(loss - t) / t for loss, t in zip(losses, true, strict=True)]
            found[name + where] = max(errors)
    return found


def _score_images(case: Case, model: nn.Module, images: Tensor) -> float:
    objective = case.objective
    labels = torch.tensor(objective.labels, device=images.device)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = batch_loss(model(images), labels) / len(labels)
    gradients = torch.autograd.grad(loss, list(named.values()))
    update = Update({name: g[None] for name, g in zip(named, gradients, strict=True)})
    observed = objective.observed.map(lambda tensor: tensor.to(images.dtype))
    return float(objective.distance(objective.imitate(update), observed))
