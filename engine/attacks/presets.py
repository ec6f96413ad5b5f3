"""Attacks by name: the default, and the published ones."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from engine.attacks.settings import AttackSettings

# GGL's published code for its small generator (CelebA), its search to the letter (what differs
# around it: docs/decisions/0007): the optimizer called "CMA"
# when it was written (today's OldCMA), told of 500 rounds and one worker but asked 50 times before
# it is told, starting from zeros on unsquashed latents, with the scalar KL penalty.
PUBLISHED_GGL: Final = AttackSettings(
    searcher="nevergrad:OldCMA",
    searcher_settings={"population": 50, "workers": 1, "planned_budget": 500, "init": "zeros"},
    space="raw",
    label_inference="row_sum",
    label_hypotheses=1,
    distance="squared_l2",
    regulariser="kl",
    regulariser_weight=0.1,
    published_code=True,
)

# The same for BigGAN (ImageNet), whose latents the published code squashes and does not penalise.
PUBLISHED_GGL_BIGGAN: Final = replace(
    PUBLISHED_GGL,
    searcher_settings={**PUBLISHED_GGL.searcher_settings, "init": "uniform"},
    space="tanh",
    regulariser="none",
    regulariser_weight=0.0,
)

# The attacks that search pixels, without a generator, as published: none knows of a defense.
# *Difference* of DLG: it starts close to grey, since what a model does not see of an image stays as
# it was drawn (docs/decisions/0027).
DLG: Final = AttackSettings(
    searcher="lbfgs",
    searcher_settings={"start_std": 0.1},
    space="pixels",
    label_inference="joint",
    label_hypotheses=1,
    distance="squared_l2",
    regulariser="none",
    regulariser_weight=0.0,
    adaptive=False,
)
IDLG: Final = replace(DLG, label_inference="row_sum")
# Geiping et al. (2020), appendix: signed Adam of step 0.1 in the box, which falls to a tenth three
# times. Their total variation is of images of twice our scale.
INVERTING_GRADIENTS: Final = replace(
    IDLG,
    searcher="adam",
    searcher_settings={"schedule": "stepwise", "signed": True, "box": 1.0},
    distance="cosine",
    image_priors={"total_variation": 2e-4},
)
# Yin et al. (2021). *Differences*: their weights are for a trained ResNet-50, and squared distances
# have the scale of a model's gradients; these are for small models, chosen by PSNR on targets 20 to
# 23 of the embedded default, undefended. Labels are by row sums, not column minima.
GRADINVERSION: Final = replace(
    IDLG,
    searcher="group_adam",
    searcher_settings={"box": 1.0, "consistency": 1e-5},
    image_priors={"total_variation": 1e-2, "image_norm": 1e-4, "batch_norm": 1e-1},
)

PRESETS: Final[Mapping[str, AttackSettings]] = MappingProxyType(
    {
        "default": AttackSettings(),
        "ggl": PUBLISHED_GGL,
        "ggl_biggan": PUBLISHED_GGL_BIGGAN,
        "dlg": DLG,
        "idlg": IDLG,
        "inverting_gradients": INVERTING_GRADIENTS,
        "gradinversion": GRADINVERSION,
    }
)
