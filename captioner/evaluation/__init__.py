"""Scoring captions: the field's metrics, the CIDEr-D reward, diversity, and the grounding of attention.

The metrics of ``scores`` and ``evaluate`` are plain numbers. Confidence intervals and significance tests are in
``bootstrap``, from sums over images (``sums``): grounding reports intervals, and the benchmark both.
"""
