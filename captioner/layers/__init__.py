"""What encoders and decoders are built of: attention, recurrences, Transformer blocks, vectors of positions, dropout."""
