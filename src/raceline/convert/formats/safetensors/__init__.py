"""Safetensors checkpoints: weights by name, and the networks that they are weights of."""
