"""Systems that decide what is worth a label."""
