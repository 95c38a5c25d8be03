"""Which model is better: the captions and the costs of several models on the same photos, with how sure each number is."""
