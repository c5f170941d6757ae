"""Published systems whose first concern is where the reward comes from."""
