"""Attention figures: panels for a paper, an animation, an interactive page, and the numbers."""

from captioner.figures.figure import DRAWN, FORMATS, Figure, figure, find_word, format_of
from captioner.figures.style import Style

__all__ = ["DRAWN", "FORMATS", "Figure", "Style", "figure", "find_word", "format_of"]
