"""Numerics: k-means, Sinkhorn-Knopp, whitening, bins, colour spaces, monitors of collapse."""
