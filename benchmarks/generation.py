"""What images cost in less than single precision, and with channels last in memory."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.cases import SETTINGS
from benchmarks.timing import time_in_turn
from engine.generators.precision import PRECISIONS, in_precision

PLAIN: Final = "float32"


def measure_generators(
    *, population: int, rounds: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Returns speed and error of each setting's generator, by precision and layout.

    Args:
        population: Images made at once.
        rounds: How often each contestant is timed.
        device: Where.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in ("resnet18", "lenet", "imagenet"):  # By their generators.
        setting = SETTINGS[name]
        if device.type == "cuda" or not setting.cuda_only:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                generator: Any = setting.make_generator(setting.image_shape).to(device)
                latents = torch.randn(population, generator.latent_dim).to(device)
            ways = _ways(generator, latents, device)
            timings = time_in_turn(ways, rounds=rounds, device=device)
            plain = ways[PLAIN]()
            for way, make in ways.items():
                found[f"{type(generator).__name__}/{way}"] = {
                    "speedup_vs_float32": timings[PLAIN].over(timings[way]),
                    "max_image_error": float((make() - plain).abs().max()),
                    "images_per_s": population / timings[way].median,
                }
    return found


def _ways(generator: Any, latents: Tensor, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Returns what makes the images in each precision, with weights in each layout."""
    labels = torch.zeros(len(latents), dtype=torch.long, device=device)
    last: Any = copy.deepcopy(generator).to(memory_format=torch.channels_last)
    precisions = [one for one in PRECISIONS if one != "tf32" or device.type == "cuda"]
    return {
        f"{precision}{suffix}": partial(_make, in_precision(one, precision), latents, labels)
        for precision in precisions
        for suffix, one in (("", generator), (", channels last", last))
    }


@torch.no_grad()
def _make(generate: Callable[[Tensor, Tensor], Tensor], latents: Tensor, labels: Tensor) -> Tensor:
    return generate(latents, labels)
