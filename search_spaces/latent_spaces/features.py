"""Intermediate features of a generator beside its latents: images outside the generator's range."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from search_spaces.latent import PerImageSpace, View, source_of, standard_normal

# Prior draws the directions of one class are found from, more where more coordinates are to be told
# apart. Only features are made of them, no images.
DRAWS: Final = 1024
DRAWS_PER_COORDINATE: Final = 2
CHUNK: Final = 256
SEED: Final = 0


@runtime_checkable
class SplitGenerator(Protocol):
    """A generator that can be split at each of its stages: into features, and images of features.

    What was found about one is kept in the process under it, so it is hashable.

    Attributes:
        latent_dim: Number of latent coordinates ``d``.
        stages: Number of stages, which count from 1 for the one nearest to the latent.
    """

    latent_dim: int
    stages: int

    def to_features(self, latents: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Maps latents ``(N, d)`` of N(0, I) and labels ``(N,)`` to features ``(N, ...)``."""

    def from_features(self, features: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Maps features ``(N, ...)`` and labels ``(N,)`` to images ``(N, ch, H, W)``."""

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Returns the images of the latents' features, at whatever stage it is split."""

    def __hash__(self) -> int:
        """Returns a hash of what it is, not of its weights."""


@dataclass(frozen=True)
class FeatureSynthesis:
    """A generator whose features are moved: images of latents and of moves beside them.

    A latent is one of the generator's and ``m`` coordinates more, each along a direction of the
    features, see :func:`feature_directions`. Where these are zero the images are the generator's.

    Attributes:
        generator: The generator.
        stage: Stage of the features.
        directions: Number of directions ``m``.
    """

    generator: SplitGenerator
    stage: int = 2
    directions: int = 64

    @property
    def latent_dim(self) -> int:
        """Number of coordinates of a latent and its moves, ``d + m``."""
        return self.generator.latent_dim + self.directions

    def __call__(self, latents: Tensor, labels: Tensor) -> Tensor:
        own, moves = latents.split([self.generator.latent_dim, self.directions], dim=1)
        features = self.generator.to_features(own, labels, self.stage)
        moved = features + self._offsets(moves, labels).view_as(features)
        return self.generator.from_features(moved, labels, self.stage)

    def _offsets(self, moves: Tensor, labels: Tensor) -> Tensor:
        """Returns by what moves ``(N, m)`` change the features of their classes, ``(N, F)``."""
        by_class = [
            torch.where((labels == label)[:, None], moves, 0) @ self._basis(label, moves)
            for label in labels.unique().tolist()
        ]
        return torch.stack(by_class).sum(0)

    def _basis(self, label: int, moves: Tensor) -> Tensor:
        found = feature_directions(self.generator, label, self.stage, self.directions, moves.device)
        return found.to(moves)


@dataclass(frozen=True)
class FeatureLatentSpace(PerImageSpace):
    """Latents beside moves of the generator's features: images outside its range too, after GIFD.

    `Fang et al. (2023) <https://arxiv.org/abs/2308.04699>`_ search the features of one layer after
    the other, since a generator makes more images of features than of latents.

    *Differences from the paper*: they descend gradients, from the best point of the layer before,
    in a ball around it. Here latent and features are searched at once, and of the thousands of
    features only some directions, as a search without gradients needs it. In place of the ball is
    the prior: points are standard normal.

    ``latent_dim`` counts the coordinates of the latents of a :class:`FeatureSynthesis`.

    Attributes:
        stage: Stage of the generator whose features are moved, from 1 for the one nearest to the
            latent.
        directions: Number of directions ``m`` for an image.
    """

    stage: int = FeatureSynthesis.stage
    directions: int = FeatureSynthesis.directions

    def __post_init__(self) -> None:
        source = source_of(self)
        synthesis = feature_synthesis(
            source.generate,
            torch.device(source.device),
            stage=self.stage,
            directions=self.directions,
        )
        if self.latent_dim != synthesis.latent_dim:
            raise ValueError(
                f"Expected latent_dim={synthesis.latent_dim}, {self.directions} more than the "
                f"generator's, got latent_dim={self.latent_dim}."
            )

    def latents_of(self, points: Tensor, view: View) -> Tensor:
        return standard_normal(points, view)


def feature_synthesis(generate: object, device: torch.device, **settings: int) -> FeatureSynthesis:
    """Returns a generator whose features are moved.

    Args:
        generate: The generator.
        device: Where it works.
        settings: ``stage`` and ``directions`` of a :class:`FeatureSynthesis`.

    Raises:
        ValueError: If the generator cannot be split, has no such stage, or fewer features.
    """
    if not isinstance(generate, SplitGenerator):
        raise ValueError(
            "Expected a generator with to_features and from_features for the space 'features', got "
            f"a {type(generate).__name__}. Use another space."
        )
    synthesis = FeatureSynthesis(generate, **settings)
    _check_count("stage", synthesis.stage, generate.stages, "stages the generator has")
    some = _features(generate, torch.zeros(1, generate.latent_dim), 0, synthesis.stage, device)
    _check_count("directions", synthesis.directions, some.shape[1], "features of that stage")
    return synthesis


@lru_cache(maxsize=128)
@torch.no_grad()
def feature_directions(
    generator: SplitGenerator, label: int, stage: int, directions: int, device: torch.device
) -> Tensor:
    """Returns the directions in which features vary most, what follows the latent left out.

    The features of seeded prior draws of a class are regressed on the latents, which a search moves
    anyway. Of what is left, the principal components are returned, each as long as its standard
    deviation. Kept in the process by generator and class: the same for every search.

    Args:
        generator: The generator.
        label: The class.
        stage: Stage of the features.
        directions: Number of directions ``m``, at most the ``F`` features of the stage.
        device: Where the generator works.

    Returns:
        Orthogonal directions, the longest first, ``(m, F)``.
    """
    rng = torch.Generator().manual_seed(SEED)
    dim = generator.latent_dim
    draws = max(DRAWS, DRAWS_PER_COORDINATE * (dim + directions))
    latents = torch.randn(draws, dim, generator=rng)
    features = torch.cat(
        [_features(generator, some, label, stage, device).cpu() for some in latents.split(CHUNK)]
    ).double()
    known = torch.cat([latents.double(), torch.ones(draws, 1, dtype=torch.float64)], dim=1)
    rest = features.sub_(known @ torch.linalg.lstsq(known, features).solution)
    rest /= (draws - known.shape[1]) ** 0.5  # Draws that the regression has not used up.
    # The components of few draws of many features, as sums of draws.
    weights = torch.linalg.eigh(rest @ rest.T).eigenvectors.flip(1)[:, :directions]
    found = weights.T @ rest
    # A component's sign is arbitrary; its largest entry is made positive.
    largest = found.gather(1, found.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -found, found).to(device)


def _features(
    generator: SplitGenerator, latents: Tensor, label: int, stage: int, device: torch.device
) -> Tensor:
    """Returns the features of latents of one class, flat, ``(N, F)``."""
    labels = torch.full((len(latents),), label, device=device)
    return generator.to_features(latents.to(device), labels, stage).flatten(1)


def _check_count(name: str, value: object, most: int, meaning: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(
            f"Expected {name} between 1 and {most}, the {meaning}, got {name}={value!r}."
        )
