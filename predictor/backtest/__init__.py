"""Backtests: what the predictor would have told about a recorded job log, and how right it was."""
