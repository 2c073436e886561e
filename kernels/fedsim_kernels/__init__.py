"""Triton ops, each beside its plain-torch reference."""
