"""The training loop: Trainer, checkpoints, measurements."""
