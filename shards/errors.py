"""The one exception for what a user can mend."""


class DataError(Exception):
    """Bad input or a bad environment: the message says what, where and what to do.

    Commands print it as one line and exit with status 1. A bug of ours is never a DataError.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Text that may come from elsewhere, in one line and unable to move a cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
