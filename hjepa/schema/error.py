"""The error that a user's mistake is."""


class ConfigError(ValueError):
    """A mistake in what the user wrote; its text is shown as it stands, exit code 2."""
