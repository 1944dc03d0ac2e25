"""What a command needs to run: configuration, checkpoints, training, deployment."""
