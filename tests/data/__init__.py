"""Tests of ``captioner.data``."""
