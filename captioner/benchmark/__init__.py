"""Comparison of several models on the same photos: caption quality and cost, with the uncertainty of each number."""
