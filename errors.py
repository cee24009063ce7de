"""What a user can get wrong: one line says what was wrong and what would be right."""


class InputError(ValueError):
    """Something that the user gave can not be used; the message is one line."""


def first_line(error):
    """The first line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
