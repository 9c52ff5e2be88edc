"""The agent of one site: origin of its own tasks, participant for everyone's."""
