"""Instances of the simulator run by real agents: the same tasks, signals and sites, live."""
