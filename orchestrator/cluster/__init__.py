"""Sending a sweep to where the processors are: profiles of clusters, and what each kind is sent."""
