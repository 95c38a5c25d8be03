"""Captioning collections larger than a machine: a source is cut into parts, and each part becomes one file."""

from captioner.bulk.part import Part
from captioner.bulk.plan import Plan, open_plan
from captioner.bulk.run import Bulk, BulkReport, bulk

__all__ = ["Bulk", "BulkReport", "Part", "Plan", "bulk", "open_plan"]
