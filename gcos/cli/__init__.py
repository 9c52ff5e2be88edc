"""The command line: client commands, and the group that finds those of other packages."""
