"""Where sessions come from: a tracker and a key, as text that fits a command line."""

from __future__ import annotations

from dataclasses import dataclass

from ofa_tvm.errors import UsageError, shown


@dataclass(frozen=True)
class Place:
    """Devices of one kind behind a tracker.

    Parameters
    ----------
    host, port
        Of the tracker.
    key
        Under which the tracker knows the devices.
    """

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.key}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Inverse of `str`."""
        address, _, key = text.partition("/")
        host, port = split_address(address)
        return cls(host, port, key)


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises
    ------
    UsageError
        If the text is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{shown(text)} is not an address; type host:port, for example 127.0.0.1:9190")
    return host, int(port)
