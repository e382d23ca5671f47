"""The training loop: batches, optimiser, checkpoints, network."""
