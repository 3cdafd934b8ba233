"""Where trials run: Ray Tune as the engine, the seam to hjepa, and how many trials fit."""
