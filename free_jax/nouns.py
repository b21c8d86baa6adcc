"""How many of something, as a line says it."""


def count(number: int, noun: str, several: str = "") -> str:
    """A number and what it counts.

    >>> count(1, "teacher"), count(0, "teacher"), count(2, "class", "classes")
    ('1 teacher', '0 teachers', '2 classes')

    Args:
      number: how many.
      noun: the word for one.
      several: the word for more than one; empty: with an s.
    """
    return f"{number} {noun if number == 1 else several or noun + 's'}"
