"""What an engineer would reach for first: forecasters to measure ours against."""
