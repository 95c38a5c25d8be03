"""Data: images, captions, features and batches."""
