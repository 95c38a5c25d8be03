"""Decoders, from a memory to words. Importing this package registers every family."""

from captioner.decoders.decoder import DECODERS, Decoder, DecoderConfig, DecoderOutput, State, Step
from captioner.decoders.show_attend_tell import ShowAttendTell
from captioner.decoders.show_tell import ShowTell
from captioner.decoders.top_down import TopDown
from captioner.decoders.transformer import Transformer
from captioner.decoders.transformer_xl import TransformerXL

__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderConfig",
    "DecoderOutput",
    "ShowAttendTell",
    "ShowTell",
    "State",
    "Step",
    "TopDown",
    "Transformer",
    "TransformerXL",
]
