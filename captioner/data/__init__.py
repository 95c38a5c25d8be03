"""Data: images, caption data sets and their formats, transforms, batches, downloads, and the rows of output files."""
