"""Photos that a sentence describes.

:mod:`captioner.retrieval.index` keeps features and texts of the photos in a folder, :mod:`captioner.retrieval.ranking`
ranks them for a sentence, and :mod:`captioner.retrieval.sheet` shows the best ones on a page.
"""

from captioner.retrieval.index import INDEX, PhotoIndex, Report, open_index
from captioner.retrieval.ranking import Finder, Hit
from captioner.retrieval.sheet import contact_sheet

__all__ = ["INDEX", "Finder", "Hit", "PhotoIndex", "Report", "contact_sheet", "open_index"]
