"""How figures look."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from captioner.settings import Settings


class Style(Settings):
    """How figures look; one style serves every format."""

    colours: str = Field(
        "inferno",
        description="a colour map of matplotlib; perceptually uniform ones: inferno, magma, plasma, viridis, cividis",
    )
    opacity: float = Field(
        0.85, gt=0, le=1, description="how far the colour of the strongest attention covers the photo"
    )
    smoothing: float = Field(
        0.6,
        ge=0,
        le=5,
        description="standard deviation in cells of the Gaussian that spreads a grid's weights; 0 draws plain cells",
    )
    scale: Literal["word", "caption"] = Field(
        "word",
        description="the last colour stands for each word's own strongest attention, or for the strongest of the whole caption",
    )
    width: int = Field(1800, ge=300, le=10_000, description="pixels across the sheet of panels")
    letters: float = Field(
        1.0,
        ge=0.3,
        le=4,
        description="size of the sheet's letters; 1 suits a sheet that is shown a page wide, 2 half a page",
    )
    side: int = Field(
        960,
        ge=64,
        le=8_000,
        description="longer side of the photo in a page, in pixels; in an animation it is half of that",
    )
    seconds: float = Field(0.8, ge=0.02, le=60, description="how long an animation shows a word")

    @field_validator("colours")
    @classmethod
    def _known(cls, name: str) -> str:
        from matplotlib import colormaps

        if name not in colormaps:
            raise ValueError("there is no such colour map; take inferno, magma, plasma, viridis or cividis")
        return name
