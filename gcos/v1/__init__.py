"""Generated from `proto/gcos/v1` by `python proto/generate.py`. Not edited by hand."""
