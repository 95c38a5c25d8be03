"""Encoders: from a source to a memory. Importing this package registers every family."""

from captioner.encoders.base import ENCODERS, Encoder, EncoderConfig
from captioner.encoders.grid import BACKBONES, GridConfig, GridEncoder

__all__ = ["BACKBONES", "ENCODERS", "Encoder", "EncoderConfig", "GridConfig", "GridEncoder"]
