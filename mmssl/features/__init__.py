"""Features of a user's own data: made, kept in files, searched and told apart."""
