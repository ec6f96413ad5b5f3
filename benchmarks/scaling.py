"""How the cost of scoring grows with candidates, parameters, image size and workers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from benchmarks import cases
from benchmarks.cases import Case, Setting, make_case
from benchmarks.fanout import measure_fanout
from benchmarks.objective import training_step
from benchmarks.timing import time_in_turn

CANDIDATES: Final = (8, 16, 32, 64, 128, 256, 512)
WIDTHS: Final = (8, 16, 32, 64, 128)
IMAGE_SIZES: Final = (8, 16, 24, 32)
WORKERS: Final = (1, 2)
POPULATION: Final = 50


def measure_scaling(
    *, rounds: int, device: torch.device, most: int, with_workers: bool
) -> dict[str, list[dict[str, float]]]:
    """Returns points of four curves, by what grows along them.

    Args:
        rounds: How often each contestant is timed.
        device: Where.
        most: Largest number of candidates, and largest width.
        with_workers: Whether to run audits with Ray too.
    """
    curves: dict[str, list[dict[str, float]]] = {
        "candidates": [
            {"candidates": n, **_measure(make_case("lenet/squared_l2", **_at(n, device)), rounds)}
            for n in CANDIDATES
            if n <= most
        ],
        "parameters": [
            _measure(_convnet_case(width, 32, device), rounds) for width in WIDTHS if width <= most
        ],
        "image_size": [
            {"image_size": size, **_measure(_convnet_case(16, size, device), rounds)}
            for size in IMAGE_SIZES
        ],
        "workers": [],
    }
    if with_workers:
        curves["workers"] = [measure_fanout(workers=workers) for workers in WORKERS]
    return curves


def plot_scaling(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draws the curves as four panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    panels: Sequence[tuple[str, str, str, str]] = (
        ("candidates", "candidates", "candidates_per_s", "candidates per second"),
        ("parameters", "parameters", "candidates_per_s", "candidates per second"),
        ("image_size", "image height and width, pixels", "cost_vs_training_step", ""),
        ("workers", "workers", "evaluations_per_s", "evaluations per second, whole audit"),
    )
    for axis, (curve, across, value, up) in zip(axes.flat, panels, strict=True):
        found = [(point[curve], point[value]) for point in curves[curve]]
        draw = axis.loglog if value == "candidates_per_s" else axis.plot
        draw([x for x, _ in found], [y for _, y in found], marker="o")
        axis.set_xlabel(across)
        axis.set_ylabel(up or "cost, in plain training steps")
        axis.set_xticks([x for x, _ in found], [f"{x:,}" for x, _ in found])
        axis.xaxis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def _measure(case: Case, rounds: int) -> dict[str, float]:
    matching = case.of_images()
    timings = time_in_turn(
        {
            "ours": lambda: case.objective(case.latents),
            "matching": lambda: matching(case.latents),
            "step": lambda: training_step(case),
        },
        rounds=rounds,
        device=case.latents.device,
    )
    return {
        "candidates_per_s": len(case.latents) / timings["ours"].median,
        "cost_vs_training_step": timings["matching"].over(timings["step"]),
        "parameters": case.objective.observed.parameters(),
    }


def _at(population: int, device: torch.device) -> dict[str, Any]:
    return {"population": population, "device": device}


def _convnet_case(width: int, size: int, device: torch.device) -> Case:
    setting = Setting(make_model=lambda: _convnet(width, size), image_shape=(3, size, size))
    return cases.build("convnet", setting, cases.VARIANTS["squared_l2"], POPULATION, device)


def _convnet(width: int, size: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * (-(-size // 8)) ** 2, 10))
