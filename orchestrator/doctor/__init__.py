"""Whether a sweep could run here, or on a cluster: what is looked at, and what mends what is not right."""
