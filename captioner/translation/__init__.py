"""Translation, the task for which attention and the encoder-decoder were invented.

Sentence pairs, translation models, their training and scores, and the translator of captions. Decoders, searches and
the training loop are those of captioning, on a memory of words.
"""
