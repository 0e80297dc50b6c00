"""Encoders written so that other libraries open them, a file per library."""
