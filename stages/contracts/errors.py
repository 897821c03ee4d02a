"""The one exception a user is meant to read: a sentence that names the file, row or key, and the remedy."""


class StageError(Exception):
    """A stage cannot go on. `stages.contracts.cli.run` prints the message as one line and exits with 1."""
