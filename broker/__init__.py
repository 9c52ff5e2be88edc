"""The broker: introduces agents to each other and keeps soft state only."""
