"""The simulator: the live cores driven by a heap of events over real or typical signals."""
