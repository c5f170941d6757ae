"""Systems that play a game over responses."""
