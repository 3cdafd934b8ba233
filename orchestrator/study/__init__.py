"""The durable record of a sweep: what it writes, where that is kept, who may write it, and how it is read."""
