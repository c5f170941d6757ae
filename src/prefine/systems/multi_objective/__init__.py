"""Systems with several rewards or dimensions at once."""
