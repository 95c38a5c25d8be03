"""Engines run models: they turn loaded batches of images into captions (:mod:`captioner.engines.engine`)."""
