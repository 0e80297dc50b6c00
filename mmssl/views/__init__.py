"""Views that several methods share."""
