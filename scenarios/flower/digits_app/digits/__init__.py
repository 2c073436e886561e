"""Handwritten digits, learned by whoever has written them."""
