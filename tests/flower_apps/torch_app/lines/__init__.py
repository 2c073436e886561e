"""A line through points, by torch."""
