"""Trains the learned parts of MACCS: settings, worker processes, checkpoints, gate, card."""
