"""Scoring captions: the standard metrics, the CIDEr-D reward, diversity, and the grounding of attention.

``evaluate`` and ``metrics`` give plain scores. ``bootstrap`` adds confidence intervals and significance tests, computed
from sums over images (``sums``), for grounding and the benchmark.
"""
