"""The one exception that says: the input, not the program, is wrong."""


class InputError(ValueError):
    """Bad user input; the message says what was wrong, where, and what to do.

    Command-line tools print it as one line and exit with status 2; every other
    exception is a defect and keeps its traceback.
    """
