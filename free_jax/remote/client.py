"""The interface of one remote classifier, and how a request to it can fail."""

from typing import Protocol, runtime_checkable

import numpy as np

from free_jax.remote.answers import EndpointSpec


class EndpointError(Exception):
    """A request without an answer.

    Attributes:
      billed: the endpoint may have worked on it, so that it counts against the budget.
      retry: trying again may help.
      after: seconds to wait before the next try, as the endpoint wants, or None.
      loads: the endpoint is there but not ready yet.
      too_large: fewer images a request may help.
    """

    def __init__(
        self,
        why: str,
        *,
        billed: bool,
        retry: bool = True,
        after: float | None = None,
        loads: bool = False,
        too_large: bool = False,
    ):
        super().__init__(why)
        self.billed, self.retry, self.after = billed, retry, after
        self.loads, self.too_large = loads, too_large


Trouble = EndpointError  # The former name.


@runtime_checkable
class Client(Protocol):
    """One classifier that answers queries.

    One that only takes requests of a fixed number of images has that number as
    ``exact_batch``, and fills them up itself; what fills them up is counted.

    Attributes:
      spec: what it declares about itself.
      max_batch: images a request; may fall once it is open or was asked.
      in_flight: requests at once.
    """

    spec: EndpointSpec
    max_batch: int
    in_flight: int

    @property
    def identity(self) -> str:
        """Identifies the model that answers; known once it is open.

        Its first answer may correct it.
        """
        ...

    async def open(self) -> None:
        """Gets ready and compares what is served with `spec`.

        Raises:
          EndpointError: it cannot be reached.
          InputError: it is not what `spec` declares, or a token is missing.
        """
        ...

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """Its raw answer about normalised images [m, h, w, c] float32, in one request.

        Raises:
          EndpointError: there is no answer.
          ValueError: there is one, but of another form or from another model.
        """
        ...

    async def close(self) -> None:
        """Frees connections."""
        ...
