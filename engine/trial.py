"""Trials: each a latent search against a defended update, scored. Knows nothing of Ray or MLflow.

Reads as the sentence of the domain: a client computes an update, its defenses turn it into the
observed update, an attacker with some knowledge searches for the latent that would have caused it,
and the scoring side says how much of the private images the reconstruction shows.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.attacks import (
    AttackSettings,
    GradientMatchingObjective,
    History,
    Progress,
    Steps,
    ThreatKnowledge,
    attack_steps,
    prepare_objective,
    run_in_turn,
)
from engine.attacks.labels import JOINT
from engine.attacks.searchers import Searcher, is_white_box
from engine.defenses import DEFENSES, ClientContext, Defense, apply_defenses, label_defenses
from engine.federation import Head, Update, compute_update
from engine.federation.client import FEDSGD, LocalTraining
from engine.federation.private_images import PrivateImages
from engine.generators import Generator
from engine.generators.precision import Precision, in_precision
from engine.scoring.assignment import assign
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.groups import ANY_DEFENSE
from engine.scoring.oracle import project
from engine.scoring.perceptual import Perceptual
from engine.scoring.reconstructions import Trace, score
from engine.seeding import stream, stream_seed

# The controls that search nothing.
UNSEARCHED: Final = ("prior_only", "oracle")
PRIOR_DRAWS = 64
# How white-box attacks compare candidates.
DIFFERENTIATED: Final = "one update a candidate, differentiated"


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that determines a trial; equal specs give equal results.

    Attributes:
        id: Name of the trial, unique in its audit and fit for a folder.
        attack: Name of an attack, e.g. ``ggl``, or one of the controls: ``prior_only`` (images of
            the generator, no update), ``shuffled`` (the attack against another client's update),
            ``random_best`` (random search) and ``oracle`` (projection of the true images).
        defense: Names and settings of the defenses the client applies, in order.
        settings: How the attack searches.
        target: Index of the client whose images are to be rebuilt.
        budget: Candidate evaluations.
        seed: Root of every random stream of the trial.
        captured: Whether the observed update is a captured one instead of simulated.
        images: Private images ``B`` of every client: client ``i`` holds those from ``i * B`` on.
        training: What clients do with them.
        precision: In which the attacker runs the generator; the oracle runs it in single precision.
        of: Name of the attack that ``shuffled`` belongs to; empty for all others.
    """

    id: str
    attack: str
    defense: tuple[tuple[str, Mapping[str, object]], ...]
    settings: AttackSettings
    target: int
    budget: int
    seed: int
    captured: bool = False
    images: int = 1
    training: LocalTraining = FEDSGD
    precision: Precision = "float32"
    of: str = ""

    @property
    def searches(self) -> bool:
        """Whether the trial is a search, an attack's or a control's."""
        return self.attack not in UNSEARCHED

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
        captures: Updates that real clients shared, in the order of the clients; empty where
            clients are simulated.
        perceptual: LPIPS by metric name, as far as there are weights for it.
    """

    model: nn.Module
    head: Head
    generator: Generator
    private: PrivateImages
    classifier: EvaluationClassifier
    captures: tuple[Update, ...] = ()
    perceptual: Perceptual = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What one trial found, and how much of the client's private images it shows.

    Attributes:
        loss: Matching loss of the reconstruction; None where nothing was matched.
        evaluations: Candidates evaluated.
        nonfinite: Candidates whose loss was not finite.
        labels: The true classes, ``B`` of them in the order of the images.
        inferred_labels: The classes the attacker attributes to the reconstruction, ``B`` of them in
            ascending order; the true ones for the oracle.
        imitation: What the attacker estimated of the defense, in words.
        defense_change: ``||observed - client update|| / ||client update||``: 0 when the defense
            did nothing to this update.
        metrics: Metric name to value, see :mod:`engine.scoring.metrics`, averaged over the images
            and over reconstructions, where there are several.
        hits: Identification of the private images, averaged likewise, see :class:`Scores`.
        among: Images one was to be told from, itself included.
        trace: Rows of evaluations, best loss and its PSNR along the search.
        wall_s: Seconds the trial took; of what it shared with other trials, its part.
        matching: How candidates were compared with the observed update, in words; empty where
            they were not.
        population: Candidates per generation; 0 where there was none.
        chunk_size: Those evaluated at once: all, or fewer where memory had no room for them.
        images: The reconstruction, ``(B, ch, H, W)`` in [0, 1], each image in the place of the
            private one it is held to be; private.
        losses: Loss of every candidate in the order evaluated.
    """

    loss: float | None
    evaluations: int
    nonfinite: int
    labels: tuple[int, ...]
    inferred_labels: tuple[int, ...]
    imitation: str
    defense_change: float
    matching: str
    population: int
    chunk_size: int
    metrics: dict[str, float]
    hits: dict[str, float]
    among: int
    trace: list[tuple[int, float, float]] = field(default_factory=list)
    wall_s: float = 0.0
    images: np.ndarray
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class _Found:
    """An attack's outcome before scoring: images ``(N, B, ch, H, W)``, and how it came about."""

    images: Tensor
    labels: tuple[int, ...]
    loss: float | None = None
    imitation: str = ""
    matching: str = ""
    population: int = 0
    chunk_size: int = 0
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    nonfinite: int = 0
    trace: list[tuple[int, float, float]] = field(default_factory=list)


class Outcome(NamedTuple):
    """How a trial ended: with its result, or the exception that ended it."""

    spec: TrialSpec
    result: TrialResult | Exception


def run_trial(
    spec: TrialSpec,
    lab: Lab,
    *,
    known: History | None = None,
    on_batch: Callable[[Progress], None] = lambda _: None,
) -> TrialResult:
    """Runs one trial; arguments are those of :func:`run_trials`, for this trial alone."""
    histories = {} if known is None else {spec.id: known}
    [[outcome]] = run_trials(
        [spec], lab, known=histories, on_batch=lambda _, progress: on_batch(progress)
    )
    if isinstance(outcome.result, Exception):
        raise outcome.result
    return outcome.result


def run_trials(
    specs: Sequence[TrialSpec],
    lab: Lab,
    *,
    known: Mapping[str, History] = MappingProxyType({}),
    on_batch: Callable[[str, Progress], None] = lambda *_: None,
) -> Iterator[list[Outcome]]:
    """Runs trials in turn, generation by generation, with their candidates evaluated together.

    Each has the result it would have by itself: a trial that fails does not disturb the others.

    Args:
        specs: The trials.
        lab: What they share.
        known: Histories of interrupted searches by trial id.
        on_batch: Called with the trial's id after every population.

    Yields:
        Outcomes as they come, those that come at once together.
    """
    steps = [trial_steps(spec, lab, known.get(spec.id), on_batch=on_batch) for spec in specs]
    for over in run_in_turn(steps):
        yield [Outcome(specs[one.place], _timed(one.outcome, one.seconds)) for one in over]


def _timed(outcome: TrialResult | Exception, seconds: float) -> TrialResult | Exception:
    return outcome if isinstance(outcome, Exception) else replace(outcome, wall_s=seconds)


def trial_steps(
    spec: TrialSpec,
    lab: Lab,
    known: History | None = None,
    *,
    searcher: Searcher | None = None,
    on_batch: Callable[[str, Progress], None] = lambda *_: None,
) -> Steps[GradientMatchingObjective, TrialResult]:
    """Attacks one defended update, or runs one control, and scores the outcome.

    Args:
        spec: The trial.
        lab: What it shares with others.
        known: History of an interrupted search.
        searcher: Proposes points in place of the one that the spec names.
        on_batch: Called with the trial's id after every population.
    """
    observed, change = observe(spec, lab, victim_of(spec, lab))

    if spec.attack == "oracle":
        found = _project_truth(spec, lab)
    elif spec.attack == "prior_only":
        found = _draw_from_prior(spec, lab, observed)
    else:
        found = yield from _search(spec, lab, observed, known, searcher, on_batch)

    client = lab.private.of_client(spec.target, spec.images)
    images = assign(found.images, client.images)
    scores = score(
        images,
        client,
        model=lab.model,
        head=lab.head,
        classifier=lab.classifier,
        perceptual=lab.perceptual,
    )
    labels = tuple(client.labels.tolist())
    recalled = (Counter(found.labels) & Counter(labels)).total() / len(labels)
    return TrialResult(
        loss=found.loss,
        evaluations=len(found.losses),
        nonfinite=found.nonfinite,
        labels=labels,
        inferred_labels=found.labels,
        imitation=found.imitation,
        defense_change=change,
        matching=found.matching,
        population=found.population,
        chunk_size=found.chunk_size,
        metrics={**scores.metrics, "label_accuracy": recalled},
        hits=scores.hits,
        among=scores.among,
        trace=found.trace,
        images=images[0].cpu().numpy(),
        losses=found.losses,
    )


def victim_of(spec: TrialSpec, lab: Lab) -> int:
    """Returns the client whose update the trial attacks: the target, but for ``shuffled``."""
    shuffled = spec.attack == "shuffled"
    return lab.private.donor_of(spec.target, spec.images) if shuffled else spec.target


def search_seed(spec: TrialSpec) -> int:
    """Returns the root of the search's randomness."""
    return stream_seed(spec.seed, spec.attack, spec.target)


def observe(spec: TrialSpec, lab: Lab, victim: int) -> tuple[Update, float]:
    """Returns the update the server receives from client ``victim``, and how far it was changed."""
    update = client_update(spec, lab, victim)
    if spec.captured:
        observed = lab.captures[victim]
    else:
        held = lab.private.of_client(victim, spec.images)
        client = ClientContext(lab.model, lab.head, held.images, held.labels)
        rng = stream(spec.seed, "defense", victim)
        observed = apply_defenses(spec.chain(), update, client=client, rng=rng)
    difference = Update(
        {name: tensor - update.tensors[name] for name, tensor in observed.tensors.items()}
    )
    return observed, float(difference.l2_norms() / update.l2_norms().clamp(min=1e-12))


def client_update(spec: TrialSpec, lab: Lab, client: int) -> Update:
    """Returns what a client computes from its private images, before any defense."""
    held = lab.private.of_client(client, spec.images)
    return compute_update(
        lab.model, held.images, held.labels, images_per_client=spec.images, training=spec.training
    )


def knowledge_of(spec: TrialSpec, lab: Lab) -> ThreatKnowledge:
    """Returns what the attacker of this trial may use; nothing of it is private."""
    return ThreatKnowledge(
        model=lab.model,
        head=lab.head,
        classes=lab.generator.classes,
        generate=in_precision(lab.generator, spec.precision),
        latent_dim=lab.generator.latent_dim,
        defense_kinds=tuple(name for name, _ in spec.defense),
        training=spec.training,
        images_per_client=spec.images,
    )


def _search(
    spec: TrialSpec,
    lab: Lab,
    observed: Update,
    known: History | None,
    searcher: Searcher | None,
    on_batch: Callable[[str, Progress], None],
) -> Steps[GradientMatchingObjective, _Found]:
    objective = prepare_objective(observed, knowledge_of(spec, lab), spec.settings)
    trace = Trace(lab.private.of_client(spec.target, spec.images).images, spec.budget)

    def note(progress: Progress) -> None:
        trace.note(progress, objective)
        on_batch(spec.id, progress)

    found = yield from attack_steps(
        objective,
        spec.settings,
        budget=spec.budget,
        seed=search_seed(spec),
        known=known,
        searcher=searcher,
        on_batch=note,
    )
    return _Found(
        images=found.images[None],
        labels=found.labels,
        loss=found.loss,
        imitation=str(objective.imitate),
        matching=DIFFERENTIATED if is_white_box(spec.settings.searcher) else objective.path,
        population=found.population,
        chunk_size=found.chunk_size,
        losses=found.losses,
        nonfinite=found.nonfinite,
        trace=trace.rows,
    )


def _draw_from_prior(spec: TrialSpec, lab: Lab, observed: Update) -> _Found:
    """Draws images of the inferred classes: all an attacker has who ignores the update's rest."""
    # The prior is that of the generator's own latents, whatever space the attack searches.
    settings = replace(spec.settings, space="gaussian", space_settings={}, label_hypotheses=1)
    if settings.label_inference == JOINT:
        settings = replace(settings, label_inference="row_sum")
    objective = prepare_objective(observed, knowledge_of(spec, lab), settings)
    rng = stream(spec.seed, "prior_only", spec.target)
    latents = torch.randn(PRIOR_DRAWS, spec.images * lab.generator.latent_dim, generator=rng)
    draws = latents.to(lab.private.images.device).split(max(1, PRIOR_DRAWS // spec.images))
    images = torch.cat([objective.generate(some) for some in draws])
    return _Found(images.unflatten(0, (PRIOR_DRAWS, spec.images)), objective.labels)


def _project_truth(spec: TrialSpec, lab: Lab) -> _Found:
    client = lab.private.of_client(spec.target, spec.images)
    projection = project(
        lab.generator,
        client.images,
        client.labels,
        latent_dim=lab.generator.latent_dim,
        rng=stream(spec.seed, "oracle", spec.target),
    )
    return _Found(projection.images[None], tuple(client.labels.tolist()))
