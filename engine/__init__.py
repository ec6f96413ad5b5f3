"""leaktune: audits of the privacy defenses of federated learning by Generative Gradient Leakage.

Shape symbols used in every docstring: ``C`` candidates (or clients), ``d`` latent coordinates,
``K`` classes, ``ch, H, W`` one image's channels, height and width.
"""

__version__ = "0.1.0"
