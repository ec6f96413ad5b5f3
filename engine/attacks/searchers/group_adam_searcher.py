"""Adam on several points that are drawn towards what they agree on, as in GradInversion."""

from math import prod
from typing import Final

import numpy as np

from engine import validate
from engine.attacks.searchers.adam_searcher import AdamSearcher
from engine.attacks.searchers.base import SEARCHERS

# Share of an image's height and width by which a shift may register it.
LARGEST_SHIFT: Final = 0.125


@SEARCHERS.register("group_adam")
class GroupAdamSearcher(AdamSearcher):
    """White-box: Adam from several starts at once that are pulled towards their consensus.

    Group consistency of `GradInversion <https://arxiv.org/abs/2104.07586>`_ (Yin et al. 2021): the
    penalty ``consistency * ||x - E(x)||^2`` of every point, ``E(x)`` the mean of all of them,
    registered to one another, added to what it descends along; and Gaussian noise on every step.
    The losses that choose the reconstruction are those of the points alone.

    *Differences from the paper*: images are registered by whole pixels, from their
    cross-correlation, in place of RANSAC-flow; the noise's size falls with the step size.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; step sizes are planned by it.
        seed: Seeds the first points and the noise.
        consistency: Factor of the penalty.
        noise: Deviation of the noise on a step, in units of the step size.
        images: ``(B, ch, H, W)`` of the images whose pixels the first coordinates are; None where
            they are no pixels: then nothing is registered.

    The others are those of ``adam``.
    """

    def __init__(
        self,
        *,
        dim: int,
        budget: int,
        seed: int,
        consistency: float = 0.01,
        noise: float = 0.2,
        images: tuple[int, int, int, int] | None = None,
        population: int = 8,
        learning_rate: float = 0.1,
        schedule: str = "cosine",
        signed: bool = False,
        box: float | None = None,
    ) -> None:
        super().__init__(
            dim=dim,
            budget=budget,
            seed=seed,
            population=population,
            learning_rate=learning_rate,
            schedule=schedule,
            signed=signed,
            box=box,
            images=images,
        )
        validate.in_range(0, 1e9, consistency=consistency, noise=noise)
        self._consistency, self._noise, self._images = consistency, noise, images

    def _pulled(self, own: np.ndarray, gradients: np.ndarray) -> np.ndarray:
        away = (self._points - self._consensus())[own]
        return super()._pulled(own, gradients + 2 * self._consistency * away)

    def _step(self, own: np.ndarray, gradients: np.ndarray) -> None:
        size = self._noise * self._learning_rate * self._rates(own)
        super()._step(own, gradients)
        noisy = self._points[own] + size * self._rng.standard_normal(gradients.shape)
        self._points[own] = noisy.clip(-self._box, self._box)

    def _consensus(self) -> np.ndarray:
        """Returns the mean of all points ``(population, dim)``, as each of them would show it."""
        mean = np.broadcast_to(self._points.mean(axis=0), self._points.shape).copy()
        if self._images is None:
            return mean
        pixels = prod(self._images)
        images = self._points[:, :pixels].reshape(len(mean), *self._images)
        mean[:, :pixels] = registered_means(images).reshape(len(mean), -1)
        return mean


def registered_means(images: np.ndarray) -> np.ndarray:
    """Returns the mean of images shifted onto one another, shifted back onto each of them.

    Args:
        images: ``(P, B, ch, H, W)``; each of the ``B`` is registered by itself, to the first of
            ``P``.

    Returns:
        ``(P, B, ch, H, W)``.
    """
    shifts = _shifts(images)
    shifted = _moved(images, -shifts)
    return _moved(np.broadcast_to(shifted.mean(axis=0), images.shape), shifts)


def _shifts(images: np.ndarray) -> np.ndarray:
    """Returns by how many rows and columns images lie off the first ones, ``(P, B, 2)``."""
    height, width = images.shape[-2:]
    waves = np.fft.rfft2(images - images.mean(axis=(-2, -1), keepdims=True))
    alike = np.fft.irfft2((waves * waves[:1].conj()).sum(axis=2), s=(height, width))
    rows, columns = (_allowed(size) for size in (height, width))
    near = alike[..., rows[:, None], columns[None, :]]
    best = near.reshape(*near.shape[:2], -1).argmax(axis=2)
    return np.stack([rows[best // len(columns)], columns[best % len(columns)]], axis=-1)


def _allowed(size: int) -> np.ndarray:
    largest = int(LARGEST_SHIFT * size)
    return np.arange(-largest, largest + 1)


def _moved(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Returns images moved by rows and columns; what leaves at one edge enters at the other."""
    height, width = images.shape[-2:]
    rows = (np.arange(height) - shifts[..., :1]) % height
    columns = (np.arange(width) - shifts[..., 1:]) % width
    point, image = np.ogrid[: len(images), : images.shape[1]]
    moved = images[
        point[..., None, None], image[..., None, None], :, rows[..., None], columns[..., None, :]
    ]
    return np.moveaxis(moved, -1, 2)
