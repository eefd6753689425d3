"""Show sandbox previews on your own domain. See `PreviewProxy`."""

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.core.policy import Limits, Policy
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, PreviewProxyError
from preview_proxy.hosts import HostPattern, HostTable, Routed, Router, first_of
from preview_proxy.jwt_sessions import JWTSession
from preview_proxy.logs import redact_logging
from preview_proxy.providers.aether import Aether
from preview_proxy.providers.base import Provider
from preview_proxy.providers.blaxel import Blaxel
from preview_proxy.providers.daytona import Daytona
from preview_proxy.providers.digitorn import Digitorn, DigitornHosts
from preview_proxy.providers.e2b import E2B
from preview_proxy.providers.held import HeldTarget
from preview_proxy.providers.nullspace import Nullspace
from preview_proxy.providers.opencomputer import OpenComputer
from preview_proxy.providers.shared_targets import SharedTargets
from preview_proxy.providers.static import Static
from preview_proxy.proxy import Embed, PreviewProxy, PreviewProxyMiddleware
from preview_proxy.redis_state import RedisState
from preview_proxy.revocation import Revocation
from preview_proxy.sessions import Authenticator, CookieSession, Session, StarletteSession
from preview_proxy.tickets import MemoryTicketStore, Tickets, TicketStore
from preview_proxy.workers import Revocations

__all__ = [
    "Aether",
    "Authenticator",
    "Blaxel",
    "ConfigurationError",
    "CookieSession",
    "Daytona",
    "Digitorn",
    "DigitornHosts",
    "E2B",
    "Embed",
    "Endpoint",
    "HeldTarget",
    "HostPattern",
    "HostTable",
    "JWTSession",
    "Limits",
    "MemoryTicketStore",
    "Nullspace",
    "OpenComputer",
    "Origin",
    "Policy",
    "Preview",
    "PreviewProxy",
    "PreviewProxyError",
    "PreviewProxyMiddleware",
    "Provider",
    "RedisState",
    "Revocation",
    "Revocations",
    "Routed",
    "Router",
    "Secret",
    "Session",
    "SharedTargets",
    "StarletteSession",
    "Static",
    "Target",
    "TicketStore",
    "Tickets",
    "first_of",
    "redact_logging",
]
