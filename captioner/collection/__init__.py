"""Captioning collections larger than a machine: a source is cut into parts, and each part becomes one file."""

from captioner.collection.part import Part
from captioner.collection.plan import Plan, open_plan
from captioner.collection.run import Bulk, BulkReport, bulk

__all__ = ["Bulk", "BulkReport", "Part", "Plan", "bulk", "open_plan"]
