"""HTTP itself: bodies, keys, errors, answers, and what /openapi.json says."""
