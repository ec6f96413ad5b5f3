"""The defense protocol, its registry, and chains of defenses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.federation.target_models import Head
from engine.federation.update import Update
from engine.registry import Registry


@dataclass(frozen=True)
class ClientContext:
    """What a client knows while it defends its update; no attacker ever gets it.

    Attributes:
        model: Target model in evaluation mode.
        head: Its last linear layer.
        images: The clients' private images, every client's ``B`` next to each other,
            ``(C * B, ch, H, W)``.
        labels: Their labels, ``(C * B,)``.
    """

    model: nn.Module
    head: Head
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class MaskedScaling:
    """A mask the attacker knows, then a factor a tensor that follows from norms alone.

    Imitations of this form apply to updates that are never computed: a kernel needs the masked
    tensors' norms and inner products, not their entries.

    Attributes:
        masks: Factors of 0 and 1, by tensor name, broadcastable to the tensor; those not named
            are whole.
        scale: Squared norms of the masked tensors, ``(C, tensors)``, to factors
            ``(C, tensors)``; None for factors of one.
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    scale: Callable[[Tensor], Tensor] | None = None

    def then(self, later: "MaskedScaling") -> "MaskedScaling | None":
        """Returns both as one; None where a mask comes after a scaling, which needs both norms."""
        if self.scale is None:
            both = self.masks.keys() & later.masks.keys()
            joint = {name: self.masks[name] * later.masks[name] for name in both}
            return MaskedScaling({**self.masks, **later.masks, **joint}, later.scale)
        if later.masks:
            return None
        first, second = self.scale, later.scale
        if second is None:
            return self

        def scale(squared: Tensor) -> Tensor:
            factors = first(squared)
            return factors * second(factors.square() * squared)

        return MaskedScaling(self.masks, scale)


class Imitation(Protocol):
    """An attacker's imitation of a defense, applied to the updates of candidates.

    Deterministic; keeps names and shapes; ``str()`` of it says in words what was estimated.

    Attributes:
        noise_std: Estimated standard deviation of the noise in each entry; 0 if there is none.
    """

    @property
    def noise_std(self) -> float: ...

    def __call__(self, update: Update) -> Update:
        """Returns what ``update`` would look like behind the estimated defense."""

    def masked_scaling(self) -> MaskedScaling | None:
        """Returns the same as a mask and a scaling; None if it is of another form."""


class Defense(Protocol):
    """Turns client updates into the updates that are shared.

    Guarantees, checked for every registered defense by ``tests/contracts/defense.py``:
        - the input update is not modified;
        - names, shapes, dtypes and devices are kept;
        - all randomness comes from ``rng``, so equal seeds give equal outputs.
    """

    def __call__(self, update: Update, *, client: ClientContext, rng: torch.Generator) -> Update:
        """Returns the updates the clients share, ``C`` of them as in ``update``."""

    @staticmethod
    def estimate(
        observed: Update, *, head: Head, noise_std: float = 0.0, published_code: bool = False
    ) -> Imitation:
        """Estimates this kind of defense from one observed update (``C = 1``) alone.

        Args:
            observed: The update the server received.
            head: The target model's last linear layer, which the server knows.
            noise_std: Estimated deviation of noise that was added after this defense.
            published_code: Imitate as GGL's published code does where it departs from the paper.
        """


DEFENSES: Registry[Defense] = Registry("defense")
# The kind whose parameter the others are estimated through.
NOISE = "gaussian_noise"
# The kinds that scale an update by factors the server does not see.
SCALING = frozenset({"clipping", "clipping_per_layer"})


@dataclass(frozen=True)
class Unchanged:
    """The imitation that leaves candidates as they are."""

    noise_std: float = 0.0

    def __call__(self, update: Update) -> Update:
        return update

    def masked_scaling(self) -> MaskedScaling:
        return MaskedScaling()

    def __str__(self) -> str:
        if self.noise_std:
            return f"noise of a standard deviation of {self.noise_std:.3g}"
        return "nothing to imitate"


@dataclass(frozen=True)
class Chain:
    """Imitations applied one after the other."""

    parts: tuple[Imitation, ...]

    @property
    def noise_std(self) -> float:
        return max(part.noise_std for part in self.parts)

    def __call__(self, update: Update) -> Update:
        for part in self.parts:
            update = part(update)
        return update

    def masked_scaling(self) -> MaskedScaling | None:
        whole: MaskedScaling | None = MaskedScaling()
        for part in self.parts:
            later = part.masked_scaling()
            whole = None if whole is None or later is None else whole.then(later)
        return whole

    def __str__(self) -> str:
        return ", then ".join(str(part) for part in self.parts)


def apply_defenses(
    chain: Sequence[Defense], update: Update, *, client: ClientContext, rng: torch.Generator
) -> Update:
    """Returns ``update`` behind every defense of the chain, in its order."""
    for defense in chain:
        update = defense(update, client=client, rng=rng)
    return update


def estimate_imitations(
    kinds: Sequence[str], observed: Update, *, head: Head, published_code: bool = False
) -> Imitation:
    """Estimates a chain of defenses from the observed update, knowing their kinds only.

    The parameters of a defense (its bound, its percentage) never reach the attacker: it is given
    registered names and estimates the rest. Noise is estimated first, since what was done to the
    update before the noise has to be seen through it.
    """
    if not kinds:
        return Unchanged()
    noise = kinds.index(NOISE) if NOISE in kinds else -1
    noise_std = 0.0
    if noise > 0:
        estimated = DEFENSES.get(NOISE).estimate(  # type: ignore[attr-defined]
            observed, head=head, published_code=published_code
        )
        noise_std = estimated.noise_std
    parts = [
        DEFENSES.get(kind).estimate(  # type: ignore[attr-defined]
            observed,
            head=head,
            noise_std=noise_std if place < noise else 0.0,
            published_code=published_code,
        )
        for place, kind in enumerate(kinds)
    ]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def label_defenses(chain: Sequence[Defense]) -> str:
    """Returns the chain as a reader sees it, e.g. ``clipping(max_norm=4) + soteria(...)``."""
    return " + ".join(_label(defense) for defense in chain)


def _label(defense: Any) -> str:
    settings = ", ".join(
        f"{setting.name}={_short(getattr(defense, setting.name))}"
        for setting in fields(defense)
        if setting.repr
    )
    return f"{defense.name}({settings})" if settings else str(defense.name)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
