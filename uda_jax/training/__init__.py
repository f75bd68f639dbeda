"""Training: the loop, its one jitted step, the state that this moves, and what is kept of it."""
