"""Evaluations: one file each, a constructor and a run that yields named scores."""
