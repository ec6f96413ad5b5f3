"""Generators: latents and labels to images, pre-trained on public images, frozen."""

from engine.generators.base import GENERATORS, Generator
from engine.generators.biggan import BigGanGenerator
from engine.generators.deconvolutional import DeconvolutionalGenerator
from engine.generators.loading import load_generator
from engine.generators.mlp import MlpGenerator
from engine.generators.upsampling import UpsamplingGenerator

__all__ = [
    "GENERATORS",
    "BigGanGenerator",
    "DeconvolutionalGenerator",
    "Generator",
    "MlpGenerator",
    "UpsamplingGenerator",
    "load_generator",
]
