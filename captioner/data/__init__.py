"""From files on disk to what a model reads: pictures, captions, features, batches."""
