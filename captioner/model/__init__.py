"""Caption models, built from a config (:mod:`captioner.model.caption_model`), and their folders."""

from captioner.model.caption_model import (
    CaptionModel,
    ModelConfig,
    build_decoder,
    build_encoder,
    build_refiner,
    check_part,
)

__all__ = ["CaptionModel", "ModelConfig", "build_decoder", "build_encoder", "build_refiner", "check_part"]
