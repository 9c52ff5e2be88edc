"""Policies: how sites bid, and how bids are compared. The same code live and in simulation."""
