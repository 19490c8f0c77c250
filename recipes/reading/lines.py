"""Lines on the two standard streams, whatever the names in them hold."""

import contextlib
import os
import sys
import unicodedata

from recipes.errors import UserError

# control characters, surrogates, and what ends a line
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")


def shown(text: str) -> str:
    r"""A text without what a terminal obeys or no encoding holds, as names of files may have it: \n, \x1b, \udce9."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _ESCAPED else letter
        for letter in text
    )


def tell(error: Exception) -> None:
    """One line on stderr."""
    print(f"error: {shown(str(error))}", file=sys.stderr)


def write(line: str) -> None:
    """One line on the standard output, at once.

    Raises:
        UserError: nobody reads it, or its disk is full.
    """
    stream = sys.stdout
    try:
        try:
            print(shown(line), flush=True)
        except UnicodeEncodeError:
            print(line.encode("ascii", "backslashreplace").decode(), flush=True)
    except OSError as error:
        # what is left in its buffer would be an error again when Python ends
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise UserError(f"the standard output cannot be written ({error.strerror or error})") from None
