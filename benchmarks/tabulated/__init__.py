"""A small space on digits of which every trial has been run, and the table of what they reported."""
