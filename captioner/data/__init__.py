"""Data: pictures, captions, features and batches."""
