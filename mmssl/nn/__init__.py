"""Parts that methods share: heads, temperatures, EMA, monitors."""
