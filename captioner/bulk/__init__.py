"""Captioning collections larger than a machine: a source is cut into parts, and each part becomes one file."""

from captioner.bulk.parts import Part, Plan, open_plan
from captioner.bulk.run import Bulk, Report, bulk

__all__ = ["Bulk", "Part", "Plan", "Report", "bulk", "open_plan"]
