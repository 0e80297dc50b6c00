"""Images of what a run has learnt: one file each, a function that yields names and images."""
