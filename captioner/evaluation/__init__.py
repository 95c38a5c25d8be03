"""Scoring of captions: the field's metrics, rewards for training, and confidence intervals."""
