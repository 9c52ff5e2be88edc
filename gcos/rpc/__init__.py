"""Everything of ours that knows grpc: conversion, status mapping, security, channels, servers."""

import os

# grpc's C core writes notes such as "GOAWAY received" to stderr in a format of its own. It reads
# this when it is first imported, so there is no later place. Whoever sets it wins.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
