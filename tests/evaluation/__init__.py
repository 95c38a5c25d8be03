"""Tests of :mod:`captioner.evaluation`."""
