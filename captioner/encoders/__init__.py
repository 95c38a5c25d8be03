"""Encoders, from a source to a memory, and refiners, from a memory to a refined one.

Importing this package registers every family.
"""

from captioner.encoders.encoder import ENCODERS, Encoder, EncoderConfig
from captioner.encoders.grid import BACKBONES, GridConfig, GridEncoder
from captioner.encoders.grid_regions import GridRegionConfig, GridRegionEncoder
from captioner.encoders.refiner import REFINERS, Refiner, TransformerRefiner
from captioner.encoders.regions import RegionConfig, RegionEncoder

__all__ = [
    "BACKBONES",
    "ENCODERS",
    "REFINERS",
    "Encoder",
    "EncoderConfig",
    "GridConfig",
    "GridEncoder",
    "GridRegionConfig",
    "GridRegionEncoder",
    "Refiner",
    "RegionConfig",
    "RegionEncoder",
    "TransformerRefiner",
]
