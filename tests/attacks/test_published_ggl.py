"""The preset `ggl` beside the semantics of the published code, written anew from their description.

One candidate at a time: generate, differentiate the target model, transform as the server does that
knows the kind of defense, and take the mean over parameter tensors of squared distances, plus a
tenth of the KL divergence of a latent's own mean and deviation. Nothing is shared with the engine
but the generator, the target model and the defended update.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from engine.attacks import PRESETS, prepare_objective
from engine.lab import build_lab
from engine.plan import make_plan
from engine.trial import knowledge_of, observe
from tests.conftest import seeded
from tests.trial.test_trial import spec_of

CHAINS = {
    "none": ("none", {}),
    "noise": ("gaussian_noise", {"std": 0.01}),
    "clipping": ("clipping", {"max_norm": 0.2}),
    "sparsification": ("sparsification", {"percent": 90}),
    "soteria": ("soteria", {"percent": 80}),
}


@pytest.fixture(scope="module")
def embedded():
    return build_lab(make_plan({}, source="test"))


def as_received(gradients, received, kind):
    """What the published server does to a candidate's gradients before it compares them."""
    if kind == "clipping":
        bound = torch.cat([tensor.flatten() for tensor in received]).norm()
        norm = torch.cat([tensor.flatten() for tensor in gradients]).norm()
        return [tensor * min(1.0, float(bound / (norm + 1e-6))) for tensor in gradients]
    if kind == "sparsification":
        zeros = sum(int((tensor == 0).sum()) for tensor in received)
        percent = 100 * zeros / sum(tensor.numel() for tensor in received)
        thresholds = [np.percentile(tensor.abs().numpy(), percent) for tensor in gradients]
        return [
            torch.where(tensor.abs() < limit, torch.zeros(()), tensor)
            for tensor, limit in zip(gradients, thresholds, strict=True)
        ]
    if kind == "soteria":
        masked = gradients[-2] * (received[-2][0] != 0)
        return [*gradients[:-2], masked, gradients[-1]]
    return gradients


def published_loss(latent, label, received, kind, lab):
    image = lab.generator(latent[None], torch.tensor([label]))
    loss = nn.functional.cross_entropy(lab.model(image), torch.tensor([label]))
    gradients = torch.autograd.grad(loss, list(lab.model.parameters()))
    compared = as_received(gradients, received, kind)
    distances = [
        float((own - other).square().sum()) for own, other in zip(compared, received, strict=True)
    ]
    mean, variance = latent.mean(), latent.std(correction=0) ** 2
    divergence = -0.5 * (1 + torch.log(variance + 1e-10) - mean**2 - variance)
    return sum(distances) / len(distances) + 0.1 * float(divergence)


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("target", [0, 7])
def test_equal_latents_have_the_losses_of_the_published_code(kind, target, embedded):
    spec = spec_of(defense=(CHAINS[kind],), settings=PRESETS["ggl"])
    spec = dataclasses.replace(spec, target=target)
    observed, _ = observe(spec, embedded, target)
    received = [tensor[0] for tensor in observed.tensors.values()]
    label = int(received[-2].sum(1).argmin())
    latents = torch.randn(24, embedded.generator.latent_dim, generator=seeded(target))

    objective = prepare_objective(observed, knowledge_of(spec, embedded), spec.settings)
    expected = [published_loss(latent, label, received, kind, embedded) for latent in latents]

    assert objective.labels == (label,)
    np.testing.assert_allclose(objective(latents).numpy(), expected, rtol=1e-5)
