"""How a sweep stands, while it runs and for whoever asks."""
