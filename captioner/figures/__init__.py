"""Where a model looked, drawn: panels for a paper, an animation, a page to play with, and the plain numbers."""

from captioner.figures.figure import FORMATS, Figure, figure, format_of
from captioner.figures.style import Style

__all__ = ["FORMATS", "Figure", "Style", "figure", "format_of"]
