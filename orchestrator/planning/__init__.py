"""What a sweep will take, before it runs: measured, played through, or rehearsed."""
