"""The one exception that means the person can mend it."""


class UserError(Exception):
    """A mistake in a file, a flag or the machine's state, told in one line that names the place and the remedy."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))
