"""The exception for wrong input, as opposed to a defect of the program."""


class InputError(ValueError):
    """Bad user input; the message states what was wrong, where, and what to do.

    Command-line tools print it as one line and exit with status 2; every other
    exception is a defect and keeps its traceback.
    """
