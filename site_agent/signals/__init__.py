"""Where a site's carbon and price come from.

`ProfileSource` knows the typical days that are shipped; `TraceSource` reads a file of hourly
values. Neither guesses: what is estimated, interpolated or missing is said in the provenance.
"""
