"""What is measured: a target model, a generator, a distance, a defense, a number of images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.generators import BigganSized, DcganSized, settled
from engine import assets
from engine.attacks import GradientMatchingObjective, ThreatKnowledge
from engine.attacks.distances import DISTANCES
from engine.attacks.matching import filled_up
from engine.defenses import DEFENSES, ClientContext
from engine.federation import compute_update, find_head, make_target_model
from engine.generators import Generator, load_generator
from engine.generators.precision import in_precision

NEAR: Final = 8


def _dcgan(image_shape: tuple[int, int, int]) -> nn.Module:
    return settled(DcganSized, image_shape)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A target model and a generator that fit each other.

    Attributes:
        make_model: Returns the target model, with random weights.
        make_generator: Returns the generator for an image shape.
        image_shape: ``(ch, H, W)``.
        classes: Number of classes of the target model.
        cuda_only: Whether it is too large for a CPU.
        speedup: Least speedup over one-at-a-time scoring that is aimed at.
        cost: Largest cost, in training steps, that is aimed at.
    """

    make_model: Callable[[], nn.Module]
    make_generator: Callable[[tuple[int, int, int]], nn.Module] = _dcgan
    image_shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    cuda_only: bool = False
    speedup: float = 25.0
    cost: float = 1.05


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How candidates are compared.

    Attributes:
        distance: A name of ``engine.attacks.distances.DISTANCES``.
        defense: The defense the observed update went through, as name and settings.
        images: Private images ``B`` of a candidate.
        cost: Largest cost aimed at, where it is not the setting's.
    """

    distance: str = "squared_l2"
    defense: tuple[str, dict[str, object]] = ("none", {})
    images: int = 1
    cost: float | None = None


def _torchvision_resnet18() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18()


def _embedded_generator(image_shape: tuple[int, int, int]) -> nn.Module:
    generator = load_generator(assets.asset("fashion-mnist", "generator"))
    assert generator.image_shape == image_shape
    assert isinstance(generator, nn.Module)
    return generator


SETTINGS: Final = {
    # torchvision's: 7x7 stem and 1000 classes, made for 224 x 224.
    "resnet18-torchvision": Setting(make_model=_torchvision_resnet18, classes=1000),
    # Ours: 3x3 stem and 10 classes, made for 32 x 32; 15 times the arithmetic.
    "resnet18": Setting(
        make_model=partial(
            make_target_model, "resnet18", image_shape=(3, 32, 32), classes=10, seed=0
        )
    ),
    # What the embedded default attacks, with the generator that comes with it.
    "lenet": Setting(
        make_model=partial(make_target_model, "lenet", image_shape=(1, 28, 28), classes=10, seed=0),
        make_generator=_embedded_generator,
        image_shape=(1, 28, 28),
        speedup=10.0,
        cost=1.5,
    ),
    "imagenet": Setting(
        make_model=_torchvision_resnet18,
        make_generator=partial(settled, BigganSized),
        image_shape=(3, 224, 224),
        classes=1000,
        cuda_only=True,
        speedup=100.0,
        cost=1.2,
    ),
}
VARIANTS: Final = {
    "squared_l2": Variant(),
    "cosine": Variant(distance="cosine"),
    "known_mask": Variant(defense=("sparsification", {"percent": 90.0}), cost=1.5),
    "batch_of_4": Variant(images=4),
}


@dataclass(frozen=True)
class Case:
    """One setting and variant, made: everything needed to score candidates in any way.

    Attributes:
        name: ``setting/variant``.
        objective: Ours.
        latents: Latents of a population, ``(C, B * d)``.
        near: Latents 0.001 from the truth, ``(8, B * d)``, where rounding tells.
        images: Their images, ``(C * B, ch, H, W)``.
        speedup: Least speedup aimed at.
        cost: Largest cost aimed at.
    """

    name: str
    objective: GradientMatchingObjective
    latents: Tensor
    near: Tensor
    images: Tensor
    speedup: float
    cost: float

    @property
    def labels(self) -> Tensor:
        """Labels of the images, ``(C * B,)``."""
        each = torch.tensor(self.objective.labels, device=self.latents.device)
        return each.repeat(len(self.latents))

    def of_images(self) -> GradientMatchingObjective:
        """Returns the objective with the population's images at hand, its generator left out."""
        by_candidate = self.images.unflatten(0, (len(self.latents), -1))
        images = filled_up(by_candidate).flatten(0, 1)  # As many as it will ask for.
        knowledge = replace(
            self.objective.knowledge, generate=lambda _, labels: images[: len(labels)]
        )
        return replace(self.objective, knowledge=knowledge)


def names(device: torch.device) -> list[str]:
    """Returns the names of all cases a device is asked to run."""
    return [
        f"{setting}/{variant}"
        for setting, made in SETTINGS.items()
        for variant in VARIANTS
        if device.type == "cuda" or not made.cuda_only
    ]


def make_case(name: str, *, population: int, device: torch.device) -> Case:
    """Returns the case ``setting/variant`` with a population of random candidates."""
    setting, _, variant = name.partition("/")
    return build(name, SETTINGS[setting], VARIANTS[variant], population, device)


def build(
    name: str, setting: Setting, variant: Variant, population: int, device: torch.device
) -> Case:
    """Returns a case made of its parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = setting.make_model().eval().to(device)
        generator: Any = setting.make_generator(setting.image_shape).to(device)
        width = generator.latent_dim * variant.images
        truth, others, step = (torch.randn(n, width) for n in (1, population, NEAR))
    latents, near = others.to(device), (truth + 1e-3 * step).to(device)
    labels = tuple(range(variant.images))
    with torch.no_grad():
        objective = _objective(setting, variant, model, generator, truth.to(device), labels)
        images = objective.generate(latents)
    cost = setting.cost if variant.cost is None else max(setting.cost, variant.cost)
    return Case(name, objective, latents, near, images, setting.speedup, cost)


def _objective(
    setting: Setting,
    variant: Variant,
    model: nn.Module,
    generator: Generator,
    truth: Tensor,
    labels: tuple[int, ...],
) -> GradientMatchingObjective:
    head = find_head(model, setting.image_shape)
    classes = torch.tensor(labels, device=truth.device)
    # As in an audit: images of single precision, which on a GPU torch's convolutions are not.
    generate = in_precision(generator, "float32")
    private = generate(truth.reshape(-1, generator.latent_dim), classes)
    update = compute_update(model, private, classes, images_per_client=len(labels))
    kind, settings = variant.defense
    defense = DEFENSES.make(kind, **settings)
    client = ClientContext(model, head, private, classes)
    observed = defense(update, client=client, rng=torch.Generator())
    return GradientMatchingObjective(
        observed=observed,
        labels=labels,
        knowledge=ThreatKnowledge(
            model=model,
            head=head,
            classes=setting.classes,
            generate=generate,
            latent_dim=generator.latent_dim,
            defense_kinds=(kind,),
        ),
        imitate=defense.estimate(observed, head=head),
        distance=DISTANCES[variant.distance],
    )
