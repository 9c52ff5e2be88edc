"""Simulation, experiments, local clusters and benchmarks; may import everything."""
