"""Training: stages, the trainer, run folders and checkpoints."""
