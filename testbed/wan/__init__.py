"""A testbed over emulated distances: real agents in several regions, and the links between them.

`matrix` says what the links are, `emulator` carries them on loopback without root, `kernel_links`
and `nfqueue` let the kernel carry them, `self_test` judges both. README.md is the tutorial.
"""
