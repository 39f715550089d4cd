"""Tables of measured latencies and the models that predict them, for whole populations at a time."""
