"""Evaluations: one file each, a constructor, a check of what it needs, and a run that yields named scores."""
