"""Text from files and from libraries, made fit for a terminal."""

import unicodedata

LONGEST = 600
# Control characters, formats (such as the ones that turn the direction of writing), surrogates, line ends.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def one_line(text, longest=LONGEST):
    """Returns text as one line without control characters, of at most `longest` characters.

    A newline becomes a space, any other control character its escape, such as "\\x1b"; of a longer text the
    middle is left out.
    """
    text = " ".join(str(text).split())
    if not text.isprintable():
        text = "".join(
            character.encode("unicode_escape").decode("ascii")
            if unicodedata.category(character) in _UNSAFE
            else character
            for character in text
        )
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def counted(number, noun):
    """Returns "1 epoch", "2 epochs", "1,000 epochs"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def is_utf8(name):
    """Whether a name of a file can be written as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
