"""Searches, from a decoder and a memory to captions. Settings and results are plain values and need no torch."""
