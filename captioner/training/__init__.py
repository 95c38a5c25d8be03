"""Training: the loop and its objectives. Importing this package registers every objective."""

from captioner.training import cross_entropy, self_critical

__all__ = ["cross_entropy", "self_critical"]
