"""One trial: one latent search against one defended update, scored. Knows nothing of Ray or MLflow.

Reads as the sentence of the domain: a client computes an update, its defenses turn it into the
observed update, an attacker with some knowledge searches for the latent that would have caused it,
and the scoring side says how much of the private image the reconstruction shows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from engine.attacks import (
    AttackSettings,
    GradientMatchingObjective,
    Progress,
    ThreatKnowledge,
    prepare_objective,
    run_attack,
)
from engine.defenses import DEFENSES, ClientContext, Defense, apply_defenses, label_defenses
from engine.federation import Head, Update, compute_update
from engine.federation.private_images import PrivateImages
from engine.generators import Generator
from engine.scoring import metrics
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.groups import ANY_DEFENSE
from engine.scoring.identification import pixels, truth_rank
from engine.scoring.oracle import project
from engine.scoring.perceptual import lpips, lpips_weights
from engine.seeding import stream, stream_seed

ATTACKS: Final = ("ggl", "prior_only", "shuffled", "random_best", "oracle")
CONTROLS: Final = ATTACKS[1:]
PRIOR_DRAWS = 64
TRACE_POINTS = 20


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that determines a trial; equal specs give equal results.

    Attributes:
        id: Name of the trial, unique in its audit and fit for a folder.
        attack: ``ggl``, or one of the controls: ``prior_only`` (images of the generator, no
            update), ``shuffled`` (the attack against another client's update), ``random_best``
            (random search) and ``oracle`` (projection of the true image).
        defense: Names and settings of the defenses the client applies, in order.
        settings: How the attack searches.
        target: Index of the private image.
        budget: Candidate evaluations.
        seed: Root of every random stream of the trial.
        captured: Whether the observed update is a captured one instead of simulated.
    """

    id: str
    attack: str
    defense: tuple[tuple[str, Mapping[str, object]], ...]
    settings: AttackSettings
    target: int
    budget: int
    seed: int
    captured: bool = False

    def chain(self) -> tuple[Defense, ...]:
        """Returns the client's defenses, built."""
        return tuple(DEFENSES.make(name, **settings) for name, settings in self.defense)

    @property
    def defense_label(self) -> str:
        """The defenses as a reader sees them; the oracle depends on none."""
        return ANY_DEFENSE if self.attack == "oracle" else label_defenses(self.chain())


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What every trial of an audit shares: models and images.

    Attributes:
        model: Target model in evaluation mode.
        head: Its last linear layer.
        generator: The attacker's generator.
        private: The clients' images.
        classifier: The evaluation classifier, which no attack uses.
        captures: Updates that real clients shared, in the order of the private images; empty
            where clients are simulated.
    """

    model: nn.Module
    head: Head
    generator: Generator
    private: PrivateImages
    classifier: EvaluationClassifier
    captures: tuple[Update, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What one trial found, and how much of the private image it shows.

    Attributes:
        loss: Matching loss of the reconstruction; None where nothing was matched.
        evaluations: Candidates evaluated.
        nonfinite: Candidates whose loss was not finite.
        label: The true class.
        inferred_label: The class the attacker inferred; the true one for the oracle.
        imitation: What the attacker estimated of the defense, in words.
        defense_change: ``||observed - client update|| / ||client update||``: 0 when the defense
            did nothing to this update.
        metrics: Metric name to value, see :mod:`engine.scoring.metrics`.
        hits: Identification of the truth among its class's distractors, averaged over the
            reconstructions: ``top1``, ``top5`` by pixels, ``top1_features``, ``top5_features`` by
            the evaluation classifier's features.
        among: Images the truth was to be told from, itself included.
        trace: Rows of evaluations, best loss and its PSNR along the search.
        wall_s: Seconds the trial took.
        image: The reconstruction, ``(ch, H, W)`` in [0, 1]; private.
        losses: Loss of every candidate in the order evaluated.
    """

    loss: float | None
    evaluations: int
    nonfinite: int
    label: int
    inferred_label: int
    imitation: str
    defense_change: float
    metrics: dict[str, float]
    hits: dict[str, float]
    among: int
    trace: list[tuple[int, float, float]] = field(default_factory=list)
    wall_s: float
    image: np.ndarray
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class _Found:
    """An attack's outcome before scoring: images ``(N, ch, H, W)``, and how it came about."""

    images: Tensor
    label: int
    loss: float | None = None
    imitation: str = ""
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    nonfinite: int = 0


def run_trial(
    spec: TrialSpec,
    lab: Lab,
    *,
    known_losses: np.ndarray | None = None,
    on_batch: Callable[[Progress], None] = lambda _: None,
) -> TrialResult:
    """Attacks one defended update, or runs one control, and scores the outcome."""
    started = time.monotonic()
    victim = lab.private.donor_of(spec.target) if spec.attack == "shuffled" else spec.target
    observed, change = observe(spec, lab, victim)
    trace = _Trace(spec, lab, on_batch)

    if spec.attack == "oracle":
        found = _project_truth(spec, lab)
    elif spec.attack == "prior_only":
        found = _draw_from_prior(spec, lab, observed)
    else:
        found = _search(spec, lab, observed, known_losses, trace)

    scored, hits, among = score(found.images, lab, target=spec.target)
    label = int(lab.private.labels[spec.target])
    scored["label_accuracy"] = float(found.label == label)
    return TrialResult(
        loss=found.loss,
        evaluations=len(found.losses),
        nonfinite=found.nonfinite,
        label=label,
        inferred_label=found.label,
        imitation=found.imitation,
        defense_change=change,
        metrics=scored,
        hits=hits,
        among=among,
        trace=trace.rows,
        wall_s=time.monotonic() - started,
        image=found.images[0].cpu().numpy(),
        losses=found.losses,
    )


def observe(spec: TrialSpec, lab: Lab, victim: int) -> tuple[Update, float]:
    """Returns the update the server receives from client ``victim``, and how far it was changed."""
    image, label = lab.private.images[victim, None], lab.private.labels[victim, None]
    client_update = compute_update(lab.model, image, label)
    if spec.captured:
        observed = lab.captures[victim]
    else:
        client = ClientContext(lab.model, lab.head, image, label)
        rng = stream(spec.seed, "defense", victim)
        observed = apply_defenses(spec.chain(), client_update, client=client, rng=rng)
    difference = Update(
        {name: tensor - client_update.tensors[name] for name, tensor in observed.tensors.items()}
    )
    return observed, float(difference.l2_norms() / client_update.l2_norms().clamp(min=1e-12))


def knowledge_of(spec: TrialSpec, lab: Lab) -> ThreatKnowledge:
    """Returns what the attacker of this trial may use; nothing of it is private."""
    return ThreatKnowledge(
        model=lab.model,
        head=lab.head,
        classes=lab.generator.classes,
        generate=lab.generator,
        latent_dim=lab.generator.latent_dim,
        defense_kinds=tuple(name for name, _ in spec.defense),
    )


def score(
    images: Tensor, lab: Lab, *, target: int
) -> tuple[dict[str, float], dict[str, float], int]:
    """Scores ``N`` reconstructions of one private image, averaged.

    Returns:
        Metrics, identification hits, and the number of images told apart.
    """
    truth, label = lab.private.images[target, None], int(lab.private.labels[target])
    truths = truth.expand_as(images)
    extract = lab.classifier.features
    with torch.no_grad():
        values = {
            "mse": metrics.mse(images, truths),
            "psnr": metrics.psnr(images, truths),
            "ssim": metrics.ssim(images, truths),
            "mse_r": metrics.mse_r(images, truths, model=lab.model, head=lab.head),
            "feature_distance": metrics.feature_distance(images, truths, extract=extract),
        }
        if lpips_weights().is_file():
            values["lpips"] = lpips(images, truths)
        distractors = lab.private.distractors_of(label)
        by_features = truth_rank(images, truth, distractors, extract=extract)
        by_pixels = truth_rank(images, truth, distractors, extract=pixels)
    hits = {
        f"top{k}{suffix}": float((ranks <= k).float().mean())
        for suffix, ranks in (("", by_pixels), ("_features", by_features))
        for k in (1, 5)
    }
    return {name: float(value.mean()) for name, value in values.items()}, hits, 1 + len(distractors)


class _Trace:
    """Notes loss and PSNR at about ``TRACE_POINTS`` points of a search; scoring side."""

    def __init__(self, spec: TrialSpec, lab: Lab, on_batch: Callable[[Progress], None]) -> None:
        self.rows: list[tuple[int, float, float]] = []
        self._on_batch, self._budget = on_batch, spec.budget
        self._step = max(1, spec.budget // TRACE_POINTS)
        self._truth = lab.private.images[spec.target, None]
        self._next = 1

    def note(self, progress: Progress, objective: GradientMatchingObjective) -> None:
        if progress.best_latent is not None and (
            progress.evaluations >= self._next or progress.evaluations == self._budget
        ):
            self._next = progress.evaluations + self._step
            image = objective.generate(progress.best_latent)
            value = float(metrics.psnr(image, self._truth))
            self.rows.append((progress.evaluations, progress.best_loss, value))
        self._on_batch(progress)


def _search(
    spec: TrialSpec, lab: Lab, observed: Update, known_losses: np.ndarray | None, trace: _Trace
) -> _Found:
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    found = run_attack(
        objective,
        spec.settings,
        budget=spec.budget,
        seed=stream_seed(spec.seed, spec.attack, spec.target),
        known_losses=known_losses,
        on_batch=lambda progress: trace.note(progress, objective),
    )
    return _Found(
        found.image,
        objective.labels[0],
        found.loss,
        str(objective.imitate),
        found.losses,
        found.nonfinite,
    )


def _draw_from_prior(spec: TrialSpec, lab: Lab, observed: Update) -> _Found:
    """Draws images of the inferred class: all an attacker has who ignores the update's rest."""
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    rng = stream(spec.seed, "prior_only", spec.target)
    latents = torch.randn(PRIOR_DRAWS, lab.generator.latent_dim, generator=rng)
    return _Found(objective.generate(latents.to(lab.private.images.device)), objective.labels[0])


def _project_truth(spec: TrialSpec, lab: Lab) -> _Found:
    truth, label = lab.private.images[spec.target, None], lab.private.labels[spec.target, None]
    projection = project(
        lab.generator,
        truth,
        label,
        latent_dim=lab.generator.latent_dim,
        rng=stream(spec.seed, "oracle", spec.target),
    )
    return _Found(projection.images, int(label))
