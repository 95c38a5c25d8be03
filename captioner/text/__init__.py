"""Words and subwords, their vocabularies, and sentences."""
