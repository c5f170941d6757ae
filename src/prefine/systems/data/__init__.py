"""Systems that are, at heart, a way to choose or make the data."""
