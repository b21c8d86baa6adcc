"""Sends the queries of many teachers at once, counts them, and survives failures."""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from free_jax.errors import InputError
from free_jax.remote.answers import DeclarationError, to_logits
from free_jax.remote.client import Client, EndpointError
from free_jax.remote.ledger import ANSWERED, FAILED, REFUSED, Ledger, image_keys


class Patience(NamedTuple):
    """How long a request that fails is tried again.

    Attributes:
      seconds: from its first failure until its endpoint is given up.
      first_delay: seconds, doubled each time; the wait is a random share of it.
      longest_delay: seconds.
      bad_answers: how many answers of the wrong form give an endpoint up.
      opening: like `seconds`, before an endpoint's first answer; one that says that it
        is not ready yet is waited for as long as `seconds`.
    """

    seconds: float = 60.0
    first_delay: float = 0.2
    longest_delay: float = 10.0
    bad_answers: int = 3
    opening: float = 5.0


# Images without a finite value, or refused one by one in a row, after which an endpoint
# that may answer others is given up.
_HOLLOW = 8


class _Endpoint:
    """The state of one endpoint."""

    def __init__(self, client: Client, budget: int):
        self.client, self.budget, self.name = client, budget, client.spec.name
        self.slots = asyncio.Semaphore(client.in_flight)
        self.open = False
        self.lost = ""  # Why it was given up.
        self.warned = False  # That its budget is spent.
        self.pause_until = 0.0
        self.known = 0  # Images answered by the ledger, without a query.
        self.first = asyncio.Lock()
        self.proven = False  # It has answered.
        self.finite = False  # It has answered with values that are finite.
        self.silent = 0  # Images that it answered with others.
        self.hollow = 0  # Answers with no others, in a row.
        self.refused = 0  # Single images that it did not accept, in a row.
        self.held = ""  # What to say about them, unless it accepts none.
        self.rejected: set[bytes] = set()  # They.
        self.limit = client.max_batch  # Images that it takes in one request.

    @property
    def exact(self) -> int:
        """Images that every request has to hold; 0: any number."""
        return getattr(self.client, "exact_batch", 0)

    @property
    def size(self) -> int:
        """Images a request."""
        return self.exact or max(1, min(self.limit, self.client.max_batch))


class Hub:
    """All endpoints of a run, on an event loop in a thread of its own.

    `ask` is what jitted programs call, see `remote.module.Endpoint`: it touches no JAX
    and never raises.  An endpoint that is given up, and queries beyond a budget, answer
    NaN; `alive`, `spent` and `raise_if_broken` tell it.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        ledger: Ledger | None = None,
        *,
        budgets: Sequence[int] = (),
        total: int = 0,
        patience: Patience = Patience(),
        at_once: int = 64,
    ):
        """Starts the thread; nothing is sent yet.

        Args:
          clients: index `i` of a query is the i-th one.
          ledger: counts and answers, of this run and of the runs it continues.
          budgets: images that each client may be sent, retries included; 0 or none: no
            limit.
          total: the same for all together.
          patience: with failing requests.
          at_once: requests under way over all clients.

        Raises:
          InputError: no clients, or two of one name.
        """
        names = [client.spec.name for client in clients]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not clients or twice:
            raise InputError(
                f"endpoints need distinct names, {twice} appear twice"
                if twice
                else "there are no endpoints"
            )
        self._ledger = ledger or Ledger()
        self._total, self._patience = total, patience
        self._defect: BaseException | None = None
        self._missing = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="endpoints", daemon=True
        )
        self._thread.start()
        limits = list(budgets) or [0] * len(clients)
        self._endpoints = [
            _Endpoint(*pair) for pair in zip(clients, limits, strict=True)
        ]
        self._slots = asyncio.Semaphore(at_once)

    def open(self) -> None:
        """Compares every endpoint with its spec; those out of reach are left out.

        Raises:
          InputError: one is not what its spec declares, or none can be reached.
        """
        self._run(self._open_all())
        self.raise_if_broken()

    def close(self) -> None:
        """Ends connections, thread and ledger."""
        if self._loop.is_closed():
            return
        self._run(self._close_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._ledger.close()

    @property
    def names(self) -> list[str]:
        """Names of the endpoints."""
        return [endpoint.name for endpoint in self._endpoints]

    def alive(self) -> np.ndarray:
        """[T] bool: the endpoint still answers and has queries left."""
        left = self.remaining()
        return np.array(
            [
                left[i] > 0 and not endpoint.lost
                for i, endpoint in enumerate(self._endpoints)
            ]
        )

    @property
    def queries(self) -> int:
        """Images that all endpoints may charge for so far."""
        return sum(self._ledger.billed(endpoint.name) for endpoint in self._endpoints)

    @property
    def spent(self) -> bool:
        """Whether the total budget is used up."""
        return bool(self._total) and self.queries >= self._total

    def remaining(self) -> list[float]:
        """Images that each endpoint may still be sent; infinite without a budget."""
        left = self._total - self.queries if self._total else float("inf")
        own = [
            endpoint.budget - self._ledger.billed(endpoint.name)
            if endpoint.budget
            else left
            for endpoint in self._endpoints
        ]
        both = [max(min(left, mine), 0) for mine in own]
        # What does not fill a request cannot be sent.
        return [
            float(n - n % e.exact if e.exact and np.isfinite(n) else n)
            for n, e in zip(both, self._endpoints, strict=True)
        ]

    def all_answered(self, _: Any = None) -> bool:
        """Whether every query since the last call found an answer.

        Args:
          _: results of the program that asked, so that it has ended.
        """
        missing, self._missing = self._missing, 0
        return not missing

    def answered(self, result: Any = None) -> bool:
        """Whether every query since the last call found an answer.

        Args:
          result: of the program that asked; waited for, so that it has ended.

        Raises:
          Exception: queries were lost for good, see `raise_if_broken`.
        """
        complete = self.all_answered(jax.block_until_ready(result))
        if not complete:
            self.raise_if_broken()
        return complete

    def exhausted(self) -> str:
        """Why no endpoint can be asked any more; "" while one can."""
        return "" if self.alive().any() else "the budget of queries is spent"

    def raise_if_broken(self) -> None:
        """Raises what `ask` must not raise.

        Raises:
          InputError: no endpoint is left.
          BaseException: a defect in the hub itself.
        """
        if self._defect is not None:
            raise self._defect
        if all(endpoint.lost for endpoint in self._endpoints):
            first = self._endpoints[0]
            raise InputError(
                f"no endpoint answers any more; the first one, {first.name}, "
                f"{first.lost}; solve this and run the same command again: no "
                "answer is lost"
            )

    def bill(self) -> dict[str, Any]:
        """Counts of images for each endpoint and in total, ready for JSON."""
        each = {}
        for endpoint, left in zip(self._endpoints, self.remaining(), strict=True):
            counts = self._ledger.counts(endpoint.name)
            state = "in use" if left else "spent"
            each[endpoint.name] = {
                "queries": self._ledger.billed(endpoint.name),
                "answered": counts[ANSWERED],
                "failed_but_billed": counts[FAILED] + counts["open"],
                "refused_not_billed": counts[REFUSED],
                "answered_by_ledger": endpoint.known,
                "not_finite": endpoint.silent,
                "budget": endpoint.budget,
                "state": f"given up: {endpoint.lost}" if endpoint.lost else state,
            }
        return {"queries": self.queries, "budget": self._total, "endpoints": each}

    def ask(self, index: Any, images: Any) -> np.ndarray:
        """Logits of images; blocks until all have an answer or none is to be had.

        Args:
          index: [...] which endpoint; those of one call have equally many classes.
          images: [..., n, h, w, c] float32, normalised; leading axes are broadcast.

        Returns:
          [..., n, way] float32, NaN where there is no answer.
        """
        index, images = np.asarray(index), np.asarray(images, np.float32)
        lead = np.broadcast_shapes(index.shape, images.shape[:-4])
        index = np.broadcast_to(index, lead)
        images = np.broadcast_to(images, lead + images.shape[-4:])
        way = self._endpoints[int(index.flat[0])].client.spec.num_classes
        out = np.full((*lead, images.shape[-4], way), np.nan, np.float32)
        if self._defect is None:
            try:
                self._run(self._ask_all(index, images, out))
            except BaseException as error:
                self._defect = error
        self._missing += int(np.isnan(out[..., 0]).sum())
        return out

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open_all(self) -> None:
        results = await asyncio.gather(
            *(self._open(endpoint) for endpoint in self._endpoints),
            return_exceptions=True,
        )
        for error in results:
            if isinstance(error, BaseException):
                raise error

    async def _open(self, endpoint: _Endpoint) -> None:
        start, delay, said = time.monotonic(), self._patience.first_delay, False
        while not endpoint.open:
            try:
                async with self._slots:
                    await endpoint.client.open()
                endpoint.open = True
            except EndpointError as error:
                waited, patience = time.monotonic() - start, self._patience.opening
                if error.loads:
                    patience = max(patience, self._patience.seconds)
                    if not said and waited + (error.after or 0.0) <= patience:
                        said = True
                        _say(
                            f"endpoint {endpoint.name}: {error}; waiting for it, up to "
                            f"{patience:g} s"
                        )
                if not error.retry or waited > patience:
                    why = f"{error}" + f", for {waited:.0f} s" * error.loads
                    self._give_up(endpoint, why)
                    return
                wait = error.after or delay * random.random()
                await asyncio.sleep(min(wait, self._patience.longest_delay))
                delay = min(2 * delay, self._patience.longest_delay)

    async def _close_all(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.client.close()

    async def _ask_all(
        self, index: np.ndarray, images: np.ndarray, out: np.ndarray
    ) -> None:
        # The same teacher may be asked in several places; all are sent together.
        await asyncio.gather(
            *(
                self._ask(
                    self._endpoints[number], images[index == number], index, number, out
                )
                for number in np.unique(index).tolist()
            )
        )

    async def _ask(
        self,
        endpoint: _Endpoint,
        images: np.ndarray,
        index: np.ndarray,
        number: int,
        out: np.ndarray,
    ) -> None:
        """Fills in the answers of one endpoint for images [..., n, h, w, c]."""
        flat = images.reshape(-1, *images.shape[-3:])
        async with endpoint.first:
            if not endpoint.open and not endpoint.lost:
                await self._open(endpoint)
            if endpoint.lost:
                return
            self._recall(endpoint, flat)
            keys, known, rows = self._unknown(endpoint, flat)
            endpoint.known += sum(key in known for key in keys)
            tries = 0
            while not (endpoint.proven or endpoint.lost) and tries < len(rows):
                # As little as can be is paid before it is clear that answers come as
                # declared.  They may also tell which version it is that answers.  The
                # next one is only tried where the first was refused, which is free.
                one = rows[tries : tries + (endpoint.exact or 1)]
                await self._batch(endpoint, flat, one)
                tries += len(one)
                if not self.remaining()[number]:
                    break
            if endpoint.held and not endpoint.proven:
                self._give_up(endpoint, endpoint.held)
            if tries:
                keys, known, rows = self._unknown(endpoint, flat)
        size = endpoint.size
        parts = await asyncio.gather(
            *(
                self._batch(endpoint, flat, rows[start : start + size])
                for start in range(0, len(rows), size)
            )
        )
        for part in parts:
            known |= part
        nothing = np.full(out.shape[-1], np.nan, np.float32)
        answers = np.stack([known.get(key, nothing) for key in keys])
        out[index == number] = answers.reshape(*images.shape[:-3], -1)

    def _recall(self, endpoint: _Endpoint, images: np.ndarray) -> None:
        """Where one of several versions may answer, expects the one that has before."""
        candidates = getattr(endpoint.client, "identities", {})
        if endpoint.client.identity in candidates:
            own = self._ledger.look_up(image_keys(endpoint.client.identity, images))
            for identity, version in candidates.items():
                if own:
                    return
                if self._ledger.look_up(image_keys(identity, images)):
                    endpoint.client.assume(version)  # type: ignore[attr-defined]
                    return

    def _unknown(
        self, endpoint: _Endpoint, images: np.ndarray
    ) -> tuple[list[bytes], dict[bytes, np.ndarray], np.ndarray]:
        """Keys of images, the answers that are known, and the rows to ask about."""
        keys = image_keys(endpoint.client.identity, images)
        known = self._ledger.look_up(list(dict.fromkeys(keys)))
        first: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            if key not in known and key not in endpoint.rejected:
                first.setdefault(key, i)
        return keys, known, np.fromiter(first.values(), int, len(first))

    async def _batch(
        self, endpoint: _Endpoint, images: np.ndarray, rows: np.ndarray
    ) -> dict[bytes, np.ndarray]:
        """One request, repeated until it is answered or the endpoint is given up.

        One that is too large becomes two.
        """
        start, delay, bad = None, self._patience.first_delay, 0
        while not endpoint.lost:
            wait = endpoint.pause_until - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if len(rows) > endpoint.size:
                return await self._halves(endpoint, images, rows)
            async with self._slots, endpoint.slots:
                # Checked here, where nothing else runs before it is counted as sent.
                rows = rows[: self._grant(endpoint, len(rows))]
                if endpoint.lost or not len(rows):
                    return {}
                ticket = self._ledger.send(endpoint.name, endpoint.exact or len(rows))
                outcome, after, retry, too_large = FAILED, None, True, False
                try:
                    answer = await endpoint.client.ask(images[rows])
                    logits = to_logits(endpoint.client.spec, answer, len(rows))
                except EndpointError as error:
                    outcome = FAILED if error.billed else REFUSED
                    why, after, retry = str(error), error.after, error.retry
                    too_large = error.too_large
                except DeclarationError as error:
                    why, retry = f"sends {error}", False
                except ValueError as error:
                    bad += 1
                    why, retry = f"sends {error}", bad < self._patience.bad_answers
                else:
                    keys = image_keys(endpoint.client.identity, images[rows])
                    found = dict(zip(keys, logits, strict=True))
                    self._ledger.settle(
                        ticket, ANSWERED, ((k, v.tobytes()) for k, v in found.items())
                    )
                    self._take_note(endpoint, logits)
                    return found
                self._ledger.settle(ticket, outcome)
            if too_large and len(rows) > 1 and not endpoint.exact:
                found = await self._halves(endpoint, images, rows)
                if len(found) == len(rows):  # So it was the number, not an image.
                    endpoint.limit = min(endpoint.limit, -(-len(rows) // 2))
                return found
            if too_large and not retry:  # It may be this image that it refuses.
                endpoint.refused += 1
                most = self._patience.bad_answers
                if endpoint.refused < (max(most, _HOLLOW) if endpoint.proven else most):
                    identity = endpoint.client.identity
                    endpoint.rejected |= set(image_keys(identity, images[rows]))
                    endpoint.held = why
                    if endpoint.proven:
                        self._tell_held(endpoint)
                    return {}
            now = time.monotonic()
            start = now if start is None else start
            waited = now - start + (after or 0.0)
            if not retry or waited > self._patience.seconds:
                self._give_up(endpoint, why)
                return {}
            if after is not None:
                endpoint.pause_until = now + after
                await asyncio.sleep(after)
            # Full jitter: the clients of a server that returns do not come all at once.
            await asyncio.sleep(delay * random.random())
            delay = min(2 * delay, self._patience.longest_delay)
        return {}

    async def _halves(
        self, endpoint: _Endpoint, images: np.ndarray, rows: np.ndarray
    ) -> dict[bytes, np.ndarray]:
        # One after the other, so that the second learns from the first.
        half = -(-len(rows) // 2)
        found = await self._batch(endpoint, images, rows[:half])
        return found | await self._batch(endpoint, images, rows[half:])

    def _take_note(self, endpoint: _Endpoint, logits: np.ndarray) -> None:
        """Learns from an answer; one without any finite value is not worth another."""
        endpoint.proven, endpoint.refused = True, 0
        self._tell_held(endpoint)
        silent = int(np.isnan(logits).any(-1).sum())
        if silent and not endpoint.silent:
            _warn(
                f"endpoint {endpoint.name}: values that are not finite about {silent} "
                f"of {len(logits)} images, which have no answer"
            )
        endpoint.silent += silent
        endpoint.finite |= silent < len(logits)
        endpoint.hollow = 0 if endpoint.finite else endpoint.hollow + 1
        enough = endpoint.hollow >= self._patience.bad_answers
        if enough and endpoint.silent >= _HOLLOW:
            self._give_up(endpoint, "sends no values that are finite")

    def _tell_held(self, endpoint: _Endpoint) -> None:
        if endpoint.held:
            count = len(endpoint.rejected)
            _warn(
                f"endpoint {endpoint.name}: no answer about {count} of the images, "
                f"{endpoint.held}"
            )
        endpoint.held = ""

    def _grant(self, endpoint: _Endpoint, wanted: int) -> int:
        # A request of fixed size is sent whole or not at all.
        needed = max(wanted, endpoint.exact)
        left = [needed]
        if endpoint.budget:
            left.append(endpoint.budget - self._ledger.billed(endpoint.name))
            if left[-1] < needed and not endpoint.warned:
                endpoint.warned = True
                _warn(
                    f"endpoint {endpoint.name}: its budget of {endpoint.budget} is "
                    "spent"
                )
        if self._total:
            left.append(self._total - self.queries)
        granted = max(min(left), 0)
        if endpoint.exact:
            return wanted if granted == needed else 0
        return granted

    def _give_up(self, endpoint: _Endpoint, why: str) -> None:
        if not endpoint.lost:
            endpoint.lost = why
            _warn(f"endpoint {endpoint.name}: {why}; left out from now on")


def _warn(message: str) -> None:
    _say(f"warning: {message}")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
