"""Watching devices over RPC: what was learned of one outlasts a session with it."""

from __future__ import annotations

from ofa_tvm.devices.session import Session
from ofa_tvm.measurement.conditions import PATTERNS
from ofa_tvm.measurement.watch import WAIT_S, Watch


class DeviceWatches:
    """A watch of each device, which knows from session to session how fast that device can be.

    Parameters
    ----------
    wait_s
        Longest wait for a device to cool down.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._session: Session | None = None
        self._known: dict[str, Watch] = {}

    def of(self, session: Session) -> Watch:
        """The watch of a session's device; it asks this session from now on."""
        if session.address not in self._known:
            self._known[session.address] = Watch(self._pace_s, self._files, wait_s=self._wait_s)
        self._session = session
        return self._known[session.address]

    def forget(self) -> None:
        """Let go of the session."""
        self._session = None

    def _pace_s(self) -> float:
        return 0.0 if self._session is None else self._session.pace_s()

    def _files(self) -> dict[str, str]:
        return {} if self._session is None else self._session.matching(PATTERNS)
