"""The simulator compiled: the same world, policies and results, hundreds of times as fast.

Needs the extra `research` (numba). Nothing but `testbed.fast.run` is for others.
"""
