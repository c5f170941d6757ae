"""Systems that are, at heart, an objective."""
