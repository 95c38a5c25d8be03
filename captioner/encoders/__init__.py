"""Encoders: from a source to a memory. Importing this package registers every family."""

from captioner.encoders.base import ENCODERS, REFINERS, Encoder, EncoderConfig, Refiner
from captioner.encoders.grid import BACKBONES, GridConfig, GridEncoder
from captioner.encoders.regions import RegionConfig, RegionEncoder
from captioner.encoders.transformer import TransformerRefiner

__all__ = [
    "BACKBONES",
    "ENCODERS",
    "REFINERS",
    "Encoder",
    "EncoderConfig",
    "GridConfig",
    "GridEncoder",
    "Refiner",
    "RegionConfig",
    "RegionEncoder",
    "TransformerRefiner",
]
