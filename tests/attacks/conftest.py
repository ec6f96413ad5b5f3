"""Objectives whose minimiser is known, behind every chain of defenses."""

import copy
import dataclasses

import pytest
import torch

from engine.attacks import GradientMatchingObjective
from engine.attacks.distances import squared_l2
from engine.defenses import (
    ClientContext,
    Clipping,
    ClippingPerLayer,
    GaussianNoise,
    NoDefense,
    Soteria,
    Sparsification,
    apply_defenses,
)
from engine.defenses.base import estimate_imitations
from engine.federation import compute_update
from tests.conftest import seeded

PLANTED = torch.tensor([[0.3, -0.7, 0.9]])

CHAINS = {
    "none": (NoDefense(),),
    "clipping": (Clipping(max_norm=0.1),),
    "clipping by layer": (ClippingPerLayer(max_norm=0.05),),
    "noise": (GaussianNoise(std=0.001),),
    "mask": (Sparsification(percent=70),),
    "columns": (Soteria(percent=40),),
    "mask, then clipping": (Sparsification(percent=70), Clipping(max_norm=0.1)),
    "clipping, then mask": (Clipping(max_norm=0.1), Sparsification(percent=70)),
    "columns, then clipping, then noise": (
        Soteria(percent=40),
        Clipping(max_norm=0.1),
        GaussianNoise(std=0.001),
    ),
}


@pytest.fixture
def make_objective(knowledge, model, head, generator):
    """Makes objectives in double precision whose minimiser is the planted latent."""
    model, generator = copy.deepcopy(model).double(), copy.deepcopy(generator).double()
    in_double = dataclasses.replace(knowledge, model=model, generate=generator)

    def make(chain="none", distance=squared_l2, labels=(2,), published_code=False, **changes):
        images = generator(PLANTED.double().repeat(len(labels), 1), torch.tensor(labels))
        classes = torch.tensor(labels)
        update = compute_update(model, images, classes, images_per_client=len(labels))
        client = ClientContext(model, head, images[:1], classes[:1])
        observed = apply_defenses(CHAINS[chain], update, client=client, rng=seeded(3))
        imitation = estimate_imitations(
            [defense.name for defense in CHAINS[chain]],
            observed,
            head=head,
            published_code=published_code,
        )
        return GradientMatchingObjective(
            observed=observed,
            labels=tuple(labels),
            knowledge=in_double,
            imitate=imitation,
            distance=distance,
            **changes,
        )

    return make


def latents_around(scale, labels=1, candidates=9):
    steps = torch.randn(candidates, 3 * labels, generator=seeded(5), dtype=torch.float64)
    return PLANTED.double().repeat(1, labels) + scale * steps
