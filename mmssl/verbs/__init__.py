"""The verbs of the `mmssl` command, a file each: `add` says its options, and it calls one function."""
