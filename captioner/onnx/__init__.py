"""Captioners without torch: exported to ONNX by :mod:`captioner.onnx.export`, run by :mod:`captioner.onnx.engine`.

A folder holds three graphs: ``encoder.onnx`` from pixels to features, ``start.onnx`` from features to a decoder's
state, a refiner included, and ``step.onnx`` from words and a state to the next ones. Only the export imports torch.
"""
