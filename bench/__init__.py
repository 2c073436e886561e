"""Speed, side by side with a peer on the same work; run by hand, never in tests."""
