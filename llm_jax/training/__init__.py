"""Losses, optimiser, one jitted step, the loop around it, and where its measurements go."""
