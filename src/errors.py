"""What a user can mend: one exception, one line."""


class UserError(Exception):
    """Something that the user gave cannot be used.

    The message is one line in three parts: what was given, what was expected, what to do. The commands print
    it on stderr without a traceback and end with exit code 1; from Python it is an ordinary exception.
    """
