"""The edge of the project: commands, their settings, what is on disk, and what the user sees."""


class UsageError(ValueError):
    """Something the user must change; the message is one line."""
