"""The interface of one remote classifier, and how a request to it can fail."""

from typing import Protocol, runtime_checkable

import numpy as np

from free_jax.remote.answers import Card


class Trouble(Exception):
    """A request without an answer.

    Attributes:
      billed: the endpoint may have worked on it, so that it counts against the budget.
      retry: trying again may help.
      after: seconds that the endpoint asked to wait, or None.
    """

    def __init__(
        self, why: str, *, billed: bool, retry: bool = True, after: float | None = None
    ):
        super().__init__(why)
        self.billed, self.retry, self.after = billed, retry, after


@runtime_checkable
class Client(Protocol):
    """One classifier that answers queries.

    Attributes:
      card: what is known of it.
      max_batch: images a request.
      in_flight: requests at once.
    """

    card: Card
    max_batch: int
    in_flight: int

    @property
    def identity(self) -> str:
        """Whose answers these are; known once it is open."""
        ...

    async def open(self) -> None:
        """Gets ready and compares what is served with the card.

        Raises:
          Trouble: it cannot be reached.
          InputError: it is not what the card says, or a token is missing.
        """
        ...

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """Its raw answer about normalised images [m, h, w, c] float32, in one request.

        Raises:
          Trouble: there is no answer.
          ValueError: there is one, but of another form or from another model.
        """
        ...

    async def close(self) -> None:
        """Frees connections."""
        ...
