"""Where a model looked, drawn: panels for a paper, an animation, a page to play with, and the plain numbers."""

from captioner.figures.figure import DRAWN, FORMATS, Figure, figure, find_word, format_of
from captioner.figures.style import Style

__all__ = ["DRAWN", "FORMATS", "Figure", "Style", "figure", "find_word", "format_of"]
