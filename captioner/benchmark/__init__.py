"""Comparison of several models on the same images: caption quality and cost, with the uncertainty of each number."""
