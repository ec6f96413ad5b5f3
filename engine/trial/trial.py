"""Trials: each a latent search against a defended update, scored. Knows nothing of Ray or MLflow.

Reads as the sentence of the domain: a client computes an update, its defenses turn it into the
observed update, an attacker with some knowledge searches for the latent that would have caused it,
and the scoring side says how much of the private images the reconstruction shows.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from engine.attacks import (
    GradientMatchingObjective,
    History,
    Progress,
    Steps,
    ThreatKnowledge,
    attack_steps,
    prepare_objective,
    run_in_turn,
)
from engine.attacks.searchers import Searcher, is_white_box
from engine.defenses import ClientContext, apply_defenses
from engine.federation import Update, compute_update
from engine.generators.precision import in_precision
from engine.scoring.assignment import assign
from engine.scoring.oracle import project
from engine.scoring.reconstructions import Trace, score
from engine.scoring.variants import CONTROLS
from engine.seeding import stream, stream_seed
from engine.trial.parts import Lab, Outcome, TrialResult, TrialSpec

PRIOR_DRAWS = 64
# The stream that searches of attacks draw from.
ATTACK_STREAM: Final = "ggl"
# How white-box attacks compare candidates.
DIFFERENTIATED: Final = "one update a candidate, differentiated"


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

    Each has the result it would have by itself, on GPUs but for rounding: a trial that fails does
    not disturb the others.

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
        restored=0 if known is None else min(len(known.losses), len(found.losses)),
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
    """Returns the root of the search's randomness: one for all attacks, by whatever name."""
    return stream_seed(
        spec.seed, spec.attack if spec.attack in CONTROLS else ATTACK_STREAM, spec.target
    )


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
    # The classes are those of the better rule, so that the floor is one for all attacks.
    settings = replace(
        spec.settings,
        space="gaussian",
        space_settings={},
        label_hypotheses=1,
        label_inference="bias" if lab.head.has_bias else "row_sum",
        adaptive=True,
    )
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
