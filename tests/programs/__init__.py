"""Real programs that tests run against: databases, stores, clusters, a browser."""
