"""Translation, where the lineage begins: pairs of sentences, models of text, their training and scores, and the translator of captions.

It stands on the rooms of captioning and adds nothing to them: the same decoders, searches and training loop, on a
memory of words.
"""
