"""Translation, the task that attention and the encoder-decoder models of captioning come from.

It holds pairs of sentences, models of text, their training and scores, and the translator of captions. It builds on the
packages of captioning and adds nothing to them: the same decoders, searches and training loop, on a memory of words.
"""
