"""Methods: one file each, what the network is shown and what it is asked."""
