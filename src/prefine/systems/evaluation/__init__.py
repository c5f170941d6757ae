"""Surveys and comparisons as systems: measurements, and a method as a choice in every slot."""
