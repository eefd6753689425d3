"""The emulated Nullspace edge: its checks are in `nullspace_admission.py`."""

from __future__ import annotations

import ssl

from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge, Passage, Refusal, Refused
from preview_proxy.testing.nullspace_admission import Admission
from preview_proxy.testing.nullspace_state import State


class NullspaceEdge(EmulatedEdge):
    """Every preview host of the emulated Nullspace."""

    not_listening = "preview_service_not_ready"

    def __init__(self, state: State, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(state.changes, ssl_context)
        self.state = state

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        return Admission(self.state, request, client).admit()

    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        grant = self.state.grants.get(request.grant_id or "")
        if grant is not None:
            grant.last_error = (refused.code, self.state.clock())
        return self.state.answer(refused)
