"""Systems that are, at heart, a loop."""
