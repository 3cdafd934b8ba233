"""What is tried next and what goes on: proposals, rungs, and what follows from a report."""
