"""Predicts run times as distributions, and learns from runs that end."""
