"""A sweep's processes and the machine under them: locks, signals, private folders, what it ran on."""
