"""The training loop: the Trainer, checkpoints, evaluation and measurements."""
