"""Requests on the engine, and what comes back: deltas, choices, log-probabilities, in no wire format."""
