"""Wing 1: what is trained. Cells, how they are run over sequences, and models built of them."""
