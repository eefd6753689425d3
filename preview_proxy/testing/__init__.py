"""The test kit: a machine's dev server and a provider's edge in front of it, both on loopback; and contract suites."""

from preview_proxy.testing.aether import AetherEmulator
from preview_proxy.testing.blaxel import BlaxelEmulator
from preview_proxy.testing.blaxel_state import BlaxelSwitches
from preview_proxy.testing.daytona import DaytonaEmulator
from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.dev_websocket import Closed, WebSocket
from preview_proxy.testing.e2b import E2BEmulator
from preview_proxy.testing.edge import EdgeRequest
from preview_proxy.testing.http_server import Received, Request, Response
from preview_proxy.testing.json_api import ApiRequest
from preview_proxy.testing.nullspace import NullspaceEmulator
from preview_proxy.testing.nullspace_state import EdgeSwitches, Grant
from preview_proxy.testing.opencomputer import OpenComputerEmulator
from preview_proxy.testing.provider_contract import EdgeFailure, ProviderContract
from preview_proxy.testing.router_contract import RouterContract
from preview_proxy.testing.session_contract import SessionContract

__all__ = [
    "AetherEmulator",
    "ApiRequest",
    "BlaxelEmulator",
    "BlaxelSwitches",
    "Closed",
    "DaytonaEmulator",
    "DevServer",
    "E2BEmulator",
    "EdgeFailure",
    "EdgeRequest",
    "EdgeSwitches",
    "Grant",
    "NullspaceEmulator",
    "OpenComputerEmulator",
    "ProviderContract",
    "Received",
    "Request",
    "Response",
    "RouterContract",
    "SessionContract",
    "WebSocket",
]
