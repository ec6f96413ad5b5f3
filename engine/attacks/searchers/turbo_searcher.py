"""Trust-region Bayesian optimization (TuRBO) on BoTorch, behind the ask/tell protocol."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from engine import validate
from engine.attacks.searchers.base import SEARCHERS
from engine.attacks.searchers.packages import needed
from search_spaces.latent import View

# The paper's trust region, section 2: sides, and successes in a row that double it.
FIRST_LENGTH: Final = 0.8
SMALLEST_LENGTH: Final = 0.5**7
LARGEST_LENGTH: Final = 1.6
SUCCESSES: Final = 3
IMPROVEMENT: Final = 1e-3  # Of the best loss's size, for a success.
# Fitting costs the cube of the points, drawing jointly that of the candidates.
MODELLED: Final = 256
CANDIDATES: Final = 1000
FIRST_STEPS: Final = 60
LATER_STEPS: Final = 15
PERTURBED: Final = 20  # Coordinates in which a candidate leaves the best point, on average.


@SEARCHERS.register("turbo")
class TurboSearcher:
    """Searches by TuRBO-1 (Eriksson et al. 2019, arXiv 1910.01739): a Gaussian process in a box.

    The box lies around the best point, its sides in proportion to the process's lengthscales. It
    doubles after 3 asks that improved and halves after as many evaluations without improvement as
    there are coordinates; once it is smaller than 1/128 the search starts anew, from Sobol points.
    Candidates are Thompson samples: each the minimum of one function drawn from the process.

    Differences from the paper, so that 2,500 evaluations take minutes on one core:
        - the process is fitted to the best and the 255 latest points of this start, not to all:
          the latest lie in the box, and the others matter little there;
        - it is fitted by 15 steps of Adam from where the last fit ended (60 at first);
        - functions are drawn at 1,000 points in place of up to 5,000.

    Args:
        dim: Number of coordinates.
        budget: Candidate evaluations the search will spend; a third at most starts it.
        seed: Seeds everything drawn.
        population: Candidates per ask, 10 if None. Each ask fits the process once.
    """

    view: View = "unit"

    def __init__(self, *, dim: int, budget: int, seed: int, population: int | None = None) -> None:
        population = 10 if population is None else population
        validate.count(population=population)
        with needed("botorch", searcher="turbo"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Of its use of torch.jit.
            import botorch  # noqa: F401 # Deferred: imports take seconds.
        self.preferred_population = population
        self._dim = dim
        self._initial = max(2, min(2 * dim, budget // 3))
        self._generator = torch.Generator().manual_seed(seed)
        self._region = _Region.around_nothing(dim)
        self._sobol = self._new_sobol()

    def ask(self, candidates: int) -> np.ndarray:
        region = self._region
        if len(region.losses) < self._initial:
            return self._sobol.draw(candidates, dtype=torch.float64).numpy()
        best = region.points[region.losses.argmin()]
        with _quiet():
            model = _fit(*region.modelled(), region.hyperparameters)
            region.hyperparameters = model.state_dict()
            box = _box(best, _lengthscales(model), region.length)
            near = self._perturbed(best, box, max(CANDIDATES, 2 * candidates))
            drawn = _draw(model, near, candidates, self._generator)
        return near[_minima(drawn)].numpy()

    def tell(self, points: np.ndarray, losses: np.ndarray) -> None:
        region, told = self._region, torch.from_numpy(losses.astype(np.float64))
        if len(region.losses) >= self._initial:
            region.resize(told)
        region.points = torch.cat([region.points, torch.from_numpy(points.copy())])
        region.losses = torch.cat([region.losses, told])
        if region.length < SMALLEST_LENGTH:
            self._region = _Region.around_nothing(self._dim)
            self._sobol = self._new_sobol()

    def _new_sobol(self) -> torch.quasirandom.SobolEngine:
        seed = int(torch.randint(2**31, (), generator=self._generator))
        return torch.quasirandom.SobolEngine(self._dim, scramble=True, seed=seed)

    def _perturbed(self, best: Tensor, box: tuple[Tensor, Tensor], count: int) -> Tensor:
        """Returns Sobol points of the box, each at ``best`` in most coordinates if these are many.

        Shapes: ``best`` (d,), the box's corners (d,), returns ``(count, d)``.
        """
        low, high = box
        inside = low + (high - low) * self._new_sobol().draw(count, dtype=torch.float64)
        shape = (count, self._dim)
        moved = torch.rand(shape, generator=self._generator) < min(1.0, PERTURBED / self._dim)
        one = torch.randint(self._dim, (count, 1), generator=self._generator)
        return torch.where(moved.scatter(1, one, True), inside, best)


@dataclass
class _Region:
    """What one start of the search knows, and the size of its box.

    ``points`` are ``(n, d)``, ``losses`` ``(n,)``, both in the order told.
    """

    points: Tensor
    losses: Tensor
    length: float = FIRST_LENGTH
    successes: int = 0
    failures: int = 0
    hyperparameters: dict[str, Any] | None = None

    @classmethod
    def around_nothing(cls, dim: int) -> "_Region":
        return cls(torch.empty(0, dim, dtype=torch.float64), torch.empty(0, dtype=torch.float64))

    def modelled(self) -> tuple[Tensor, Tensor]:
        """Returns the points that are modelled, and their losses of mean 0 and deviation 1."""
        latest = torch.arange(len(self.losses))[-MODELLED:]
        best = int(self.losses.argmin())
        if best < latest[0]:
            latest[0] = best
        losses = self.losses[latest]
        spread = losses.std()
        return self.points[latest], (losses - losses.mean()) / (spread if spread > 0 else 1.0)

    def resize(self, told: Tensor) -> None:
        """Doubles the box after successes, halves it after failures, counted by evaluations."""
        best = float(self.losses.min())
        if float(told.min()) < best - IMPROVEMENT * abs(best):
            self.successes, self.failures = self.successes + 1, 0
        else:
            self.successes, self.failures = 0, self.failures + len(told)
        if self.successes >= SUCCESSES:
            self.length, self.successes = min(2 * self.length, LARGEST_LENGTH), 0
        elif self.failures >= max(4, self.points.shape[1]):
            self.length, self.failures = self.length / 2, 0


def _fit(points: Tensor, losses: Tensor, start: dict[str, Any] | None) -> Any:
    """Returns a Gaussian process with a Matérn-5/2 kernel, fitted from ``start``."""
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import Interval
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood

    kernel = MaternKernel(
        nu=2.5, ard_num_dims=points.shape[1], lengthscale_constraint=Interval(0.005, 4.0)
    )
    model = SingleTaskGP(
        points,
        losses[:, None],
        likelihood=GaussianLikelihood(noise_constraint=Interval(1e-6, 1e-1)).double(),
        covar_module=ScaleKernel(kernel, outputscale_constraint=Interval(0.05, 20.0)).double(),
        outcome_transform=None,
    )
    if start is None:
        model.covar_module.base_kernel.lengthscale = 0.5
        model.likelihood.noise = 0.005
    else:
        model.load_state_dict(start)
    marginal = ExactMarginalLogLikelihood(model.likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.train()
    for _ in range(FIRST_STEPS if start is None else LATER_STEPS):
        optimizer.zero_grad()
        loss = -marginal(model(points), losses)
        loss.backward()
        optimizer.step()
    return model.eval()


def _lengthscales(model: Any) -> Tensor:
    """Returns the kernel's lengthscales ``(d,)``, of geometric mean 1."""
    scales: Tensor = model.covar_module.base_kernel.lengthscale.detach().flatten()
    return scales / scales.log().mean().exp()


def _box(centre: Tensor, scales: Tensor, length: float) -> tuple[Tensor, Tensor]:
    half = scales * length / 2
    return (centre - half).clamp(0, 1), (centre + half).clamp(0, 1)


def _draw(model: Any, points: Tensor, functions: int, generator: torch.Generator) -> Tensor:
    """Returns ``functions`` drawn from the process at points ``(n, d)``: ``(functions, n)``."""
    shape = torch.Size([functions])
    with torch.no_grad():
        posterior = model.posterior(points)
        normal = torch.randn(
            shape + posterior.base_sample_shape, dtype=torch.float64, generator=generator
        )
        drawn: Tensor = posterior.rsample_from_base_samples(shape, normal)
    return drawn.reshape(functions, -1)


def _minima(drawn: Tensor) -> list[int]:
    """Returns where each function ``(functions, n)`` is least, no place twice."""
    taken: list[int] = []
    for function in drawn:
        function[taken] = torch.inf
        taken.append(int(function.argmin()))
    return taken


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences BoTorch's advice on data and GPyTorch's notes on the jitter they add."""
    from botorch.exceptions.warnings import InputDataWarning
    from linear_operator.utils.warnings import NumericalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputDataWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        yield
