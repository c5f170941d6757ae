"""Systems for problems with checkable or countable answers."""
