"""The one exception for what the user can set right."""


class InputError(ValueError):
    """A wrong setting, file or folder: what is there, what is wanted, the next step."""
