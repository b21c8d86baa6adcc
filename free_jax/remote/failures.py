"""What an HTTP answer without a result means, and the server's own words about it."""

import email.utils
import json
import math
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from free_jax.remote.client import EndpointError

# Requests that were not processed; other failures may have been billed.
_REFUSED = (429, 503)
# A batch that is too large is refused by these; and by defects that say so.
_TOO_LARGE = (400, 413, 422)
_ABOUT_SIZE = re.compile(r"batch.?size|out of memory|too (large|many|big)", re.I)
# Texts of MLServer, Triton, KServe, TorchServe and gateways about a model that loads.
_NOT_READY = re.compile(
    r"not (yet )?(been )?(ready|loaded|available yet)|no available versions|"
    r"(is|still|currently) (loading|starting|initiali[sz]ing|warming)|has no worker",
    re.I,
)
_HINTS = {
    400: " (it does not accept the request)",
    401: " (token missing or not accepted)",
    403: " (token not accepted)",
    404: " (no such model or version there)",
    407: " (the proxy wants a user and a password in its variable)",
    413: " (batch too large; lower max_batch)",
}
_LONGEST = 200


class HttpError(EndpointError):
    """A request that was answered by a status other than 200.

    Attributes:
      status: of HTTP.
      text: the server's own words, in one line.
    """

    def __init__(self, why: str, status: int, text: str, **kwargs: Any):
        super().__init__(why, **kwargs)
        self.status, self.text = status, text


def failure(
    status: int,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str] = (),
) -> HttpError:
    """The error that an answer other than 200 is.

    Args:
      status: of the answer.
      url: that was asked.
      headers: of the answer.
      body: of the answer.
      secrets: what must not be shown, even if the server does.
    """
    if 300 <= status < 400 and headers.get("Location"):
        target = _shown(urllib.parse.urljoin(url, headers["Location"]))
        why = (
            f"HTTP status {status}: it redirects to {one_line(target, secrets)}, which "
            "is not followed, so that no token goes there; correct url"
        )
        return HttpError(why, status, "", billed=False, retry=False)
    text = one_line(_words(body, headers.get("Content-Type", "")), secrets)
    loads = status == 503 or bool(_NOT_READY.search(text))
    defect = status >= 500 and status not in _REFUSED
    too_large = status in _TOO_LARGE or (defect and bool(_ABOUT_SIZE.search(text)))
    return HttpError(
        f"HTTP status {status}{_HINTS.get(status, '')}" + (f": {text}" if text else ""),
        status,
        text,
        billed=defect or status in (408, 425),
        retry=defect or status in (*_REFUSED, 408, 425) or loads,
        after=_seconds(headers.get("Retry-After")),
        loads=loads,
        too_large=too_large and not loads,
    )


def one_line(text: str, secrets: Sequence[str] = ()) -> str:
    """A text of someone else that is safe to print: short, one line, nothing secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + " ..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def words(found: Any, depth: int = 4) -> str:
    """What an error in JSON says, whichever way it is wrapped.

    >>> words({"error": {"code": 400, "message": "no such input"}})
    'no such input'
    >>> words({"detail": [{"loc": ["body", "inputs"], "msg": "field required"}]})
    'field required'
    """
    if isinstance(found, str):
        return found
    if isinstance(found, dict) and depth:
        for key in ("error", "message", "detail", "msg", "error_message", "reason"):
            if said := words(found.get(key), depth - 1):
                return said
    if isinstance(found, list) and depth:
        return "; ".join(filter(None, (words(part, depth - 1) for part in found[:3])))
    return ""


def _words(body: bytes, kind: str) -> str:
    text = body[:100_000].decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if "<" in text[:200] or "html" in kind:
            title = re.search(r"(?is)<title>(.*?)</title>", text)
            return title.group(1) if title else ""
        return text[:1000]
    return words(found)


def _shown(url: str) -> str:
    """A URL without user, password and query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "another address"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; it may be a date."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = date.timestamp() - time.time()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
