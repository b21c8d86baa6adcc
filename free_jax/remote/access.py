"""What lets a request through: a token, headers of one's own, and a proxy."""

import os
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

from free_jax.errors import InputError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Set for every request, according to what it carries.
_OURS = (
    "content-length",
    "content-type",
    "inference-header-content-length",
    "transfer-encoding",
)


def request_headers(
    where: str, headers: Mapping[str, Any], token_variable: str
) -> dict[str, str]:
    """The headers of all requests, with their variables filled in.

    Args:
      where: the endpoint, in messages; they never show a value.
      headers: names and values; ``${NAME}`` stands for an environment variable.
      token_variable: environment variable with a bearer token; "" sends none.

    Raises:
      InputError: a variable is missing, or a header cannot be sent.
    """
    found = {}
    for name, value in headers.items():
        said = f"{where}: header {str(name)[:60]!r}"
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise InputError(f"{said} is no name of a header")
        if name.lower() in _OURS:
            raise InputError(f"{said} is set for each request; leave it out")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise InputError(f"{said} needs a text as its value; put it in quotes")
        found[name] = _clean(said, _filled(said, str(value)))
    if not token_variable:
        return found
    if any(name.lower() == "authorization" for name in found):
        raise InputError(
            f"{where}: both token_variable and the header Authorization are given; "
            "leave one out"
        )
    token = _clean(
        f"{where}: the environment variable {token_variable}",
        _variable(where, token_variable, "its token"),
    )
    token = re.sub(r"(?i)^bearer\s+", "", token)
    return {**found, "Authorization": f"Bearer {token}"}


def proxy_for(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for a URL.

    aiohttp would read them as well, but ``~/.netrc`` too, whose password it refuses to
    combine with a token.

    Raises:
      InputError: it is of another protocol.
    """
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0].rpartition("@")[2]
    if urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(scheme.lower())
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        raise InputError(
            f"the environment variable {scheme.upper()}_PROXY must start with "
            "http://; correct or unset it, or name the server in NO_PROXY"
        )
    return proxy or None


def _variable(where: str, name: str, what: str) -> str:
    if not _VARIABLE.fullmatch(name):
        # Perhaps it is the secret itself: it is not shown.
        raise InputError(
            f"{where}: {what} must be given by the name of an environment variable, "
            "made of letters, digits and _"
        )
    value = os.environ.get(name, "").strip()
    if not value:
        raise InputError(
            f"{where}: the environment variable {name} with {what} is not set; "
            "export it"
        )
    return value


def _filled(said: str, value: str) -> str:
    return _REFERENCE.sub(
        lambda match: _variable(said, match.group(1), "its value"), value
    )


def _clean(said: str, value: str) -> str:
    value = value.strip()
    if not value.isprintable():
        raise InputError(
            f"{said} holds a line break or another control character inside; correct it"
        )
    return value
