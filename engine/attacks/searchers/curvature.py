"""A local model of the loss, fitted to sketches of candidates' updates."""

from dataclasses import dataclass
from typing import Final

import numpy as np

# Of the mean curvature, one unit of damping.
DAMPING_UNIT: Final = 0.03
# Of the mean square of a coordinate: keeps directions still in which no candidate went.
RIDGE: Final = 1e-3
# Samples may expect a loss of so much of what a step gains, shared by all coordinates.
BOLDNESS: Final = 2.0
# What a step gains at least, of the loss.
SMALLEST_GAIN: Final = 1e-5


@dataclass(frozen=True)
class Model:
    """The loss around a point, half of it: ``loss / 2 + gradient . s + s . curvature . s / 2``.

    In coordinates along the axes of the curvature, whose origin is the point.

    Attributes:
        centre: The best point, ``(dim,)``.
        loss: Its loss.
        basis: Directions of the axes, the columns of ``(dim, dim)``.
        curvatures: Along the axes, ``(dim,)``, ascending, positive.
        gradient: ``(dim,)``.
    """

    centre: np.ndarray
    loss: float
    basis: np.ndarray
    curvatures: np.ndarray
    gradient: np.ndarray

    def steps(self, dampings: np.ndarray) -> np.ndarray:
        """Returns the points after a Levenberg-Marquardt step of each damping, ``(n, dim)``."""
        damped = self.curvatures + self._unit * dampings[:, None]
        return self.centre - (self.gradient / damped) @ self.basis.T

    def deviations(self, damping: float, most: float) -> np.ndarray:
        """Returns standard deviations of samples along the axes, ``(dim,)``.

        They raise the loss by about what a step gains, and are at most ``most``.
        """
        gain = (self.gradient**2 / (self.curvatures + self._unit * damping)).sum()
        each = BOLDNESS * max(gain, SMALLEST_GAIN * abs(self.loss)) / len(self.centre)
        return (self.curvatures / max(each, 1e-300) + most**-2) ** -0.5

    @property
    def _unit(self) -> float:
        return DAMPING_UNIT * float(self.curvatures.mean())


def fit_model(
    points: np.ndarray, losses: np.ndarray, sketches: np.ndarray, *, before: Model | None
) -> Model:
    """Fits a model to candidates, the first of which is the best and its centre.

    The sketch is regressed on the point, by least squares with a ridge: ``s(z) = s + J (z - z0)``.
    Since losses are squared distances from the observed update ``s*``, and sketches tell those
    between candidates, the law of cosines gives the gradient without noise or sketching error of
    ``s*``: ``2 (s_i - s_0) . (s_0 - s*) = loss_i - loss_0 - ||s_i - s_0||^2``.

    Args:
        points: ``(N, dim)``.
        losses: ``(N,)``.
        sketches: ``(N, m)``, finite.
        before: The model before, by which far candidates weigh less.
    """
    away = points - points[0]
    apart = (sketches - sketches[0]).astype(np.float32)
    weighed = (away * _weights(away, before)[:, None]).T
    covariance = weighed @ away
    dim = len(covariance)
    ridge = RIDGE * np.trace(covariance) / dim + 1e-300
    regression = np.linalg.solve(covariance + ridge * np.eye(dim), weighed)
    jacobian = (regression.astype(np.float32) @ apart).astype(np.float64)
    squared = np.einsum("ij,ij->i", apart, apart, dtype=np.float64)
    gradient = regression @ (losses - losses[0] - squared) / 2
    curvatures, basis = np.linalg.eigh(jacobian @ jacobian.T)
    curvatures = np.maximum(curvatures, 1e-12 * curvatures[-1] + 1e-300)
    return Model(points[0], float(losses[0]), basis, curvatures, basis.T @ gradient)


def _weights(away: np.ndarray, before: Model | None) -> np.ndarray:
    """Returns weights ``(N,)``, less where the model before expects more of a loss."""
    if before is None:
        return np.ones(len(away))
    expected = ((away @ before.basis) ** 2) @ before.curvatures
    return (1 + expected / max(float(np.median(expected)), 1e-300)) ** -2
