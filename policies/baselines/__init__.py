"""Rules that need no training."""
