"""torch.export's archives: what makes one safe to load."""
