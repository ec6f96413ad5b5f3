"""Scores reconstructions of a client's images: metrics, identification, and PSNR along a search."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from engine.attacks import GradientMatchingObjective, Progress
from engine.federation import Head
from engine.federation.private_images import PrivateImages
from engine.precision import tensor_float
from engine.scoring import metrics
from engine.scoring.assignment import assign
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.identification import pixels, truth_rank
from engine.scoring.perceptual import Perceptual

TRACE_POINTS = 20
# Images that metrics are computed of at once.
SCORED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much of a client's images reconstructions show, averaged over both.

    Attributes:
        metrics: Metric name to value, see :mod:`engine.scoring.metrics`.
        hits: Share of the private images found among their class's distractors: ``top1``, ``top5``
            by pixels, ``top1_features``, ``top5_features`` by the evaluation classifier's features.
        among: Images one is told apart from, itself included; of different numbers the smallest,
            which overstates what luck would find.
    """

    metrics: dict[str, float]
    hits: dict[str, float]
    among: int


@torch.no_grad()
@tensor_float(False)
def score(
    images: Tensor,
    client: PrivateImages,
    *,
    model: nn.Module,
    head: Head,
    classifier: EvaluationClassifier,
    perceptual: Perceptual = MappingProxyType({}),
) -> Scores:
    """Scores ``N`` reconstructions of one client's images.

    Args:
        images: ``(N, B, ch, H, W)`` in [0, 1], as :func:`engine.scoring.assignment.assign` orders
            them.
        client: The client's private images, and all distractors.
        model: Target model.
        head: Its last linear layer.
        classifier: The evaluation classifier.
        perceptual: LPIPS by metric name, as far as there are weights for it.
    """
    step = max(1, SCORED_AT_ONCE // len(client.images))
    parts = [
        _values(some, client, model, head, classifier, perceptual) for some in images.split(step)
    ]
    hits = {
        f"top{k}{suffix}": float((ranks <= k).float().mean())
        for suffix, extract in (("", pixels), ("_features", classifier.features))
        for ranks in [_ranks(images, client, extract)]
        for k in (1, 5)
    }
    among = 1 + min(len(client.distractors_of(int(label))) for label in client.labels)
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Scores(
        metrics={name: float(value.mean()) for name, value in values.items()},
        hits=hits,
        among=among,
    )


def _values(
    images: Tensor,
    client: PrivateImages,
    model: nn.Module,
    head: Head,
    classifier: EvaluationClassifier,
    perceptual: Perceptual,
) -> dict[str, Tensor]:
    """Returns metrics of reconstructions ``(N, B, ch, H, W)``, ``(N * B,)`` each."""
    drawn, truths = images.flatten(0, 1), client.images.expand_as(images).flatten(0, 1)
    return {
        "mse": metrics.mse(drawn, truths),
        "psnr": metrics.psnr(drawn, truths),
        "ssim": metrics.ssim(drawn, truths),
        "mse_r": metrics.mse_r(drawn, truths, model=model, head=head),
        "feature_distance": metrics.feature_distance(drawn, truths, extract=classifier.features),
        **{name: distance(drawn, truths) for name, distance in perceptual.items()},
    }


def _ranks(images: Tensor, client: PrivateImages, extract: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the rank of each private image by what was rebuilt of it, ``(B, N)``."""
    return torch.stack(
        [
            truth_rank(
                images[:, place], truth[None], client.distractors_of(int(label)), extract=extract
            )
            for place, (truth, label) in enumerate(zip(client.images, client.labels, strict=True))
        ]
    )


class Trace:
    """Notes loss and PSNR at about ``TRACE_POINTS`` points of a search.

    Attributes:
        rows: Evaluations, best loss, and the mean PSNR of its images.

    Args:
        truths: The client's private images, ``(B, ch, H, W)``.
        budget: Candidate evaluations of the search.
    """

    def __init__(self, truths: Tensor, budget: int) -> None:
        self.rows: list[tuple[int, float, float]] = []
        self._budget, self._step = budget, max(1, budget // TRACE_POINTS)
        self._truths = truths
        self._next = 1

    def note(self, progress: Progress, objective: GradientMatchingObjective) -> None:
        """Adds a row if it is time for one."""
        if progress.best_latent is not None and (
            progress.evaluations >= self._next or progress.evaluations == self._budget
        ):
            self._next = progress.evaluations + self._step
            drawn = objective.generate(progress.best_latent).clamp(0, 1)
            images = assign(drawn[None], self._truths)[0]
            value = float(metrics.psnr(images, self._truths).mean())
            self.rows.append((progress.evaluations, progress.best_loss, value))
