"""The one exception for what a user gave and the program cannot use."""


class InputError(ValueError):
    """One line: the value seen, the value wanted, the next step."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).splitlines()))  # a quoted value may have several
