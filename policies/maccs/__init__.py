"""MACCS: multi-agent cache-aware cooperative scheduling. Plans and learning on artifacts."""
