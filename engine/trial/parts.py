"""What a trial is given, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from torch import nn

from engine.attacks import AttackSettings
from engine.defenses import DEFENSES, Defense, label_defenses
from engine.federation import Head, Update
from engine.federation.client import FEDSGD, LocalTraining
from engine.federation.private_images import PrivateImages
from engine.generators import Generator
from engine.generators.precision import Precision
from engine.scoring.evaluation_classifier import EvaluationClassifier
from engine.scoring.groups import ANY_DEFENSE
from engine.scoring.perceptual import Perceptual

# The controls that search nothing.
UNSEARCHED: Final = ("prior_only", "oracle")


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
        of: Name of the attack that ``shuffled`` or ``random_best`` belongs to; empty for others.
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
        restored: Those of them that an interrupted search had evaluated before.
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
    restored: int
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


class Outcome(NamedTuple):
    """How a trial ended: with its result, or the exception that ended it."""

    spec: TrialSpec
    result: TrialResult | Exception
