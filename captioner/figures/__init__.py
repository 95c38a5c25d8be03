"""Attention figures: panels for a paper, an animation, an interactive page, the numbers, and alignments of texts."""

from captioner.figures.alignment import Alignment
from captioner.figures.drawing import DRAWN
from captioner.figures.figure import FORMATS, Figure, figure, find_word
from captioner.figures.style import Style
from captioner.files import format_of

__all__ = ["DRAWN", "FORMATS", "Alignment", "Figure", "Style", "figure", "find_word", "format_of"]
