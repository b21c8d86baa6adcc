"""How many of something, as a line says it."""


def count(number: int, noun: str, nouns: str = "") -> str:
    """A number and what it counts.

    >>> count(1, "teacher"), count(0, "teacher"), count(2, "class", "classes")
    ('1 teacher', '0 teachers', '2 classes')

    Args:
      number: how many.
      noun: the word for one.
      nouns: the word for several; empty: with an s.
    """
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"
