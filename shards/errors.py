"""The one exception for what a user can mend."""


class DataError(Exception):
    """Bad input or a bad environment: the message says what, where and what to do.

    Commands print it as one line and exit with status 1. A bug of ours is never a DataError.
    """
