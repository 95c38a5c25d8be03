"""Building blocks of encoders and decoders: attention, recurrences, Transformer blocks, positions, dropout."""
