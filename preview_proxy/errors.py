"""Every failure, and the one table from its code to a status, a close code and the words a visitor reads.

    PreviewProxyError
      +-- NotFound                 404   no such preview, or it is not this visitor's
      |     +-- PortNotAllowed     404   the provider never exposes this port
      +-- Unauthorized             401   nobody is signed in
      +-- Forbidden                403   a cross-site request, or a ticket that does not hold
      +-- Misdirected              421   a host inside a preview zone that names no preview
      +-- BadRequest               400   (405, 408, 414, 431) a message that breaks the protocol's rules
      +-- LimitExceeded            413   (429, 503) more than the operator allows
      +-- CheckFailed              503   the customer's own session, access or routing check did not answer
      +-- ProviderError            502   the provider's API or edge
      |     +-- CredentialRejected 502   its edge refused our token
      |     +-- MachineUnavailable 503   the machine is paused, starting or out of reach
      +-- UpstreamError            502   the bytes behind the edge
            +-- Unreachable        502
            +-- UpstreamTimeout    504
            +-- UpstreamProtocol   502

    ConfigurationError (ValueError)      raised at construction only; its message says what to change

`str(error)` is for the log. A visitor reads only `message` and `suggested_action`, which come from the table.
"""

from __future__ import annotations

from typing import NamedTuple

from preview_proxy.core.models import Rejected


class ConfigurationError(ValueError):
    """The proxy was put together wrongly. Raised at construction, never while serving."""


class ExposedCredential(UserWarning):
    """A provider's edge shows the credential to the code in the machine. Warned of at construction."""


class Code(NamedTuple):
    """One row of the table. `close_code` is for WebSockets (RFC 6455 §7.4.2: 4000 to 4999 are the application's)."""

    status: int
    close_code: int
    retryable: bool
    message: str
    suggested_action: str


_RELOAD = "Reload the page. If it happens again, tell the people who run this site."
_OPERATOR = "Tell the people who run this site, with the request id."
_DEV_SERVER = "Look at the dev server's output in the machine, then reload."

# The codes from `unsupported_preview_port` on are Nullspace's own (its troubleshooting table).
CODES: dict[str, Code] = {
    "bad_host": Code(400, 4400, False, "The request does not name one host.", "Open the preview by its own address."),
    "bad_target": Code(400, 4400, False, "The request's address is malformed.", "Check the address."),
    "bad_header": Code(400, 4400, False, "A request header is malformed.", "Send the request without that header."),
    "bad_framing": Code(400, 4400, False, "The request's length is unclear.", "Send one length, or one chunked body."),
    "bad_upgrade": Code(400, 4400, False, "Only WebSocket upgrades are relayed.", "Send the request without Upgrade."),
    "method_not_allowed": Code(405, 4405, False, "This method is not relayed.", "Use another method."),
    "target_too_long": Code(414, 4414, False, "The request's address is too long.", "Send less in the address."),
    "headers_too_large": Code(431, 4431, False, "The request's headers are too large.", "Clear this site's cookies."),
    "body_too_large": Code(413, 4413, False, "The request's body is too large.", "Send less at once."),
    "body_timeout": Code(408, 4408, True, "The request's body did not arrive in time.", "Send it again."),
    "no_such_preview": Code(404, 4404, False, "There is no such preview.", "Check the address, or ask its owner."),
    "access_ended": Code(404, 4403, False, "There is no such preview.", "Check the address, or ask its owner."),
    "misdirected": Code(421, 4421, False, "No preview is served at this address.", "Check the address."),
    "no_such_endpoint": Code(404, 4404, False, "There is nothing at this address.", "Check the address."),
    "not_signed_in": Code(401, 4401, False, "You are not signed in here.", "Open it from the app it belongs to."),
    "cross_site": Code(403, 4403, False, "This request came from another site.", "Open the preview itself."),
    "ticket_refused": Code(403, 4403, False, "The ticket does not hold.", "Open the preview from the app again."),
    "too_many_requests": Code(429, 4429, True, "You have too much open here at once.", "Reload in a moment."),
    "preview_busy": Code(503, 4503, True, "Too much of this preview is open at once.", "Reload in a moment."),
    "server_busy": Code(503, 4503, True, "The server is busy.", "Reload in a moment."),
    "check_failed": Code(503, 4503, True, "Your access could not be checked.", _RELOAD),
    "shutting_down": Code(503, 1012, True, "The server is restarting.", "Reload in a moment."),
    "internal_error": Code(500, 1011, True, "Something went wrong here.", _RELOAD),
    "provider_failed": Code(502, 1011, True, "The machine's provider did not answer as it should.", _RELOAD),
    "provider_timeout": Code(504, 1013, True, "The machine's provider did not answer in time.", _RELOAD),
    "provider_refused": Code(502, 1011, False, "The machine's provider refused our request.", _OPERATOR),
    "provider_busy": Code(503, 1013, True, "Too many previews are being opened at once.", "Reload in a moment."),
    "machine_not_found": Code(404, 4404, False, "The machine no longer exists.", "Start it again from the app."),
    "upstream_unreachable": Code(502, 1011, True, "The machine could not be reached.", _RELOAD),
    "upstream_unavailable": Code(503, 4503, True, "The machine could not be reached just now.", _RELOAD),
    "upstream_busy": Code(503, 1013, True, "The machine is busy.", "Reload in a moment."),
    "upstream_timeout": Code(504, 1013, True, "The machine did not answer in time.", _DEV_SERVER),
    "upstream_protocol_error": Code(502, 1011, False, "The machine's answer is not valid HTTP.", _DEV_SERVER),
    "unsupported_preview_port": Code(404, 4404, False, "This port is never shown as a preview.", "Use another port."),
    "preview_service_not_ready": Code(
        503, 1013, True, "The app is not listening yet.", "Bind it to 0.0.0.0, then reload."
    ),
    "edge_token_missing": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "edge_token_expired": Code(502, 1011, True, "The provider did not accept our request.", _RELOAD),
    "edge_token_invalid": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "edge_token_scope_mismatch": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "preview_grant_invalid": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "preview_grant_revoked": Code(502, 4403, False, "Access to this preview was withdrawn.", _OPERATOR),
    "preview_grant_disabled": Code(502, 4403, False, "This preview is switched off.", _OPERATOR),
    "preview_proxy_token_disabled": Code(502, 4403, False, "This preview is switched off.", _OPERATOR),
    "preview_machine_disabled": Code(502, 4403, False, "This machine's previews are switched off.", _OPERATOR),
    "preview_proxy_token_missing": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "preview_proxy_token_expired": Code(502, 1013, True, "Access to this machine ran out.", _RELOAD),
    "preview_proxy_token_revoked": Code(502, 1013, True, "Access to this machine was withdrawn.", _RELOAD),
    "preview_proxy_token_invalid": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "preview_proxy_token_scope_mismatch": Code(502, 1011, False, "The provider did not accept our request.", _OPERATOR),
    "rate_limit_exceeded": Code(429, 1013, True, "Too many requests reached this machine.", "Reload in a moment."),
    "edge_runtime_host_unreachable": Code(503, 1013, True, "The machine is out of reach.", _RELOAD),
    "machine_paused_auto_resume_disabled": Code(503, 1013, False, "The machine is paused.", "Resume it, then reload."),
}


RETRY_AFTER = 5
"""Seconds after which to try again, where nobody says."""


class PreviewProxyError(Exception):
    """A failure with a `code` of the table.

    `detail` is for the log only and never holds a credential or a URL with a query.
    `retry_after` is in seconds, 1 to 300; anything else becomes 5. A status of 429 or 503 that may be retried has one.
    """

    default_code = "internal_error"
    source = "proxy"

    def __init__(self, code: str | None = None, *, detail: str = "", retry_after: int | None = None) -> None:
        self.code = code if code in CODES else self.default_code
        self.detail = detail
        self.retry_after = RETRY_AFTER if retry_after is None and self._is_for_later() else _seconds(retry_after)
        super().__init__(f"{self.code}: {detail}" if detail else self.code)

    def _is_for_later(self) -> bool:
        return self.row.retryable and self.row.status in (429, 503)

    @property
    def row(self) -> Code:
        """The table's row for this code."""
        return CODES[self.code]

    @property
    def status(self) -> int:
        return self.row.status

    @property
    def close_code(self) -> int:
        return self.row.close_code


class NotFound(PreviewProxyError):
    """There is no such preview, or it is not this visitor's: the two look alike on purpose."""

    default_code = "no_such_preview"


class PortNotAllowed(NotFound):
    """The provider never exposes this port."""

    default_code = "unsupported_preview_port"
    source = "provider"


class Unauthorized(PreviewProxyError):
    """Nobody is signed in."""

    default_code = "not_signed_in"


class Forbidden(PreviewProxyError):
    """A cross-site request, or a ticket that does not hold."""

    default_code = "cross_site"


class Misdirected(PreviewProxyError):
    """A host inside a preview zone that names no preview (RFC 9110 §15.5.20)."""

    default_code = "misdirected"


class BadRequest(PreviewProxyError):
    """A message that breaks the protocol's rules."""

    default_code = "bad_target"
    source = "downstream"


class LimitExceeded(PreviewProxyError):
    """More than the operator allows."""

    default_code = "body_too_large"
    source = "downstream"


class CheckFailed(PreviewProxyError):
    """The customer's own session, access or routing check raised, hung or answered nonsense: fail closed."""

    default_code = "check_failed"
    source = "customer"


class ProviderError(PreviewProxyError):
    """The provider's API or edge failed."""

    default_code = "provider_failed"
    source = "provider"


class CredentialRejected(ProviderError):
    """The provider's edge refused the credential we sent."""

    default_code = "preview_proxy_token_invalid"


class MachineUnavailable(ProviderError):
    """The machine is paused, starting, or out of reach; `retry_after` says when to look again."""

    default_code = "edge_runtime_host_unreachable"


class UpstreamError(PreviewProxyError):
    """The bytes behind the edge failed us."""

    default_code = "upstream_protocol_error"
    source = "upstream"


class Unreachable(UpstreamError):
    """No connection could be made, or it broke."""

    default_code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Connecting, the response head or the next bytes took too long."""

    default_code = "upstream_timeout"


class UpstreamProtocol(UpstreamError):
    """What came back is not the protocol."""

    default_code = "upstream_protocol_error"


def _seconds(retry_after: int | None) -> int | None:
    """`Retry-After` (RFC 9110 §10.2.3) as we send it."""
    usable = retry_after is None or (type(retry_after) is int and 1 <= retry_after <= 300)
    return retry_after if usable else RETRY_AFTER


def from_rejected(rejected: Rejected) -> PreviewProxyError:
    """The exception for a broken rule of `core`: upstream's fault or the visitor's, by its code."""
    if rejected.code.startswith("upstream_"):
        return UpstreamProtocol(rejected.code, detail=rejected.detail)
    kind = Forbidden if rejected.code == "cross_site" else BadRequest
    return kind(rejected.code, detail=rejected.detail)
