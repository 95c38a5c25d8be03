"""Style of figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from captioner.settings import Settings


class Style(Settings):
    """Style of figures, for all formats."""

    colours: str = Field(
        "inferno",
        description="a matplotlib colour map; perceptually uniform ones: inferno, magma, plasma, viridis, cividis",
    )
    opacity: float = Field(0.85, gt=0, le=1, description="opacity of the colour of the strongest attention")
    smoothing: float = Field(
        0.6,
        ge=0,
        le=5,
        description="standard deviation in cells of the Gaussian that spreads a grid's weights; 0 draws plain cells",
    )
    scale: Literal["word", "caption"] = Field(
        "word",
        description="whether the last colour is each word's own strongest attention, or the strongest of the caption",
    )
    width: int = Field(1200, ge=300, le=10_000, description="width of the sheet of panels in pixels")
    letters: float = Field(
        1.0,
        ge=0.3,
        le=4,
        description="letter size of the sheet; 1 suits a sheet shown at full page width, 2 at half",
    )
    side: int = Field(
        960,
        ge=64,
        le=8_000,
        description="longer side of the image in an HTML page, in pixels; half of that in an animation",
    )
    seconds: float = Field(0.8, ge=0.02, le=60, description="seconds per word in an animation")

    @field_validator("colours")
    @classmethod
    def _check_name(cls, name: str) -> str:
        from matplotlib import colormaps

        if name not in colormaps:
            raise ValueError("no such colour map; take inferno, magma, plasma, viridis or cividis")
        return name
