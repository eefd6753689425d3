"""What the providers' edges say for themselves, from the tables in the code: for the reference, and for the tests."""

from __future__ import annotations

from typing import NamedTuple

from preview_proxy import errors
from preview_proxy.lease import RENEWABLE
from preview_proxy.providers import aether, blaxel_errors, daytona_errors, e2b, nullspace_errors, opencomputer_errors

EDGES = {
    "Nullspace": "Told by a small JSON body with one of these codes.",
    "Blaxel": "Told by the header `X-Blaxel-Source: platform` and a code in `X-Blaxel-Error-Code` or in the body. A "
    "marked 502 without a code is `preview_service_not_ready`, anything else that is marked `provider_failed`. "
    "A preview that was deleted takes one call more.",
    "OpenComputer": "Told by status and text, plain or as JSON under `error`. The page that reloads itself until the "
    "sandbox is up passes as it is.",
    "Aether": "Told by a body that is empty, or says no more than the status. An answer that repeats the address is "
    "`provider_failed`, whatever it is.",
    "Daytona": "Told by JSON with the fields of Daytona's errors and one of these codes. `BAD_REQUEST` with words that "
    "the sandbox is not started is `SANDBOX_NOT_STARTED`, as earlier releases have it.",
    "E2B": "Told by the page's title, or by the message of a JSON error with the sandbox's id. With `tokens` given no "
    "call is made.",
}

# What making a target anew takes of the provider's API.
CALLS = {"Nullspace": 1, "Blaxel": 2, "OpenComputer": 0, "Aether": 0, "Daytona": 1, "E2B": 1}


class EdgeRow(NamedTuple):
    """What a provider's edge says, `name` being ours for it, and what becomes of it."""

    provider: str
    name: str
    said: str
    kind: type[errors.ProviderError]
    code: str

    @property
    def row(self) -> errors.Code:
        return errors.CODES[self.code]

    @property
    def calls(self) -> int:
        """How many calls of the API it causes."""
        return CALLS[self.provider] if self.code in RENEWABLE else 0

    @property
    def reaction(self) -> str:
        if self.code in RENEWABLE:
            return "A target is made anew and the request sent again, once; if that is refused too, this."
        waits = self.kind is errors.MachineUnavailable or self.code == "rate_limit_exceeded"
        return "`Retry-After` says when to look again." if waits else ""


def edge_rows() -> list[EdgeRow]:
    """Every documented error of every provider's edge."""
    open_rows = [
        EdgeRow("OpenComputer", error.name, f"{error.status} `{_plain(error.text)}`", error.kind, error.code)
        for error in opencomputer_errors.EDGE_ERRORS
    ]
    return [
        *(EdgeRow("Nullspace", c, f"`{c}`", kind, c) for c, kind in sorted(nullspace_errors.EDGE_ERRORS.items())),
        *(EdgeRow("Blaxel", c, f"`{c}`", kind, ours) for c, (kind, ours) in blaxel_errors.EDGE_ERRORS.items()),
        *open_rows,
        *(
            EdgeRow("Aether", phrase, f"{status} {phrase}", errors.MachineUnavailable, aether.EDGE_ERRORS[status])
            for status, phrase in ((502, "Bad Gateway"), (504, "Gateway Timeout"))
        ),
        *(EdgeRow("Daytona", c, f"`{c}`", kind, ours) for c, (kind, ours) in daytona_errors.EDGE_ERRORS.items()),
        EdgeRow("Daytona", "login", "307 to its login", *daytona_errors.EDGE_ERRORS["UNAUTHORIZED"]),
        EdgeRow("Daytona", "silence", "502 without a body", *daytona_errors.SILENCE),
        EdgeRow("Daytona", "starting", 'a page titled "Sandbox Starting"', *daytona_errors.STARTING),
        *(EdgeRow("E2B", title, f"{status} {title}", kind, code) for status, _, title, kind, code in e2b.EDGE_ERRORS),
    ]


def _plain(pattern: str) -> str:
    """A regular expression for readers."""
    return pattern.replace("[A-Za-z0-9_-]{1,128}", "…").replace(r"\b.*", " …")
