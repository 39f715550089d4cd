"""A worker for tests of `ofa_tvm.process`, which does as it is told."""

from __future__ import annotations

import os
import sys
import time

from ofa_tvm.process import EventPipe, requests


def main() -> None:
    """Serve until standard input closes."""
    events = EventPipe()
    for request in requests():
        match request["do"]:
            case "count":
                for number in range(request["to"]):
                    events.send(event="number", value=number)
            case "tell":
                events.send(
                    event="done", arguments=sys.argv[1:], example=os.environ.get("EXAMPLE"), pid=os.getpid()
                )
                continue
            case "echo":
                events.send(event="done", text=request["text"])
                continue
            case "print":
                print("noise", flush=True)  # noqa: T201
                os.write(1, b"noise from C\n")
            case "fail":
                events.send(event="failed", error="no luck")
                continue
            case "signal":
                os.kill(os.getpid(), request["number"])
            case "raise":
                raise ValueError("something is wrong")
            case "sleep":
                end = time.monotonic() + request["seconds"]
                while time.monotonic() < end:
                    time.sleep(0.05)
                    if request["beat"]:
                        events.beat()
        events.send(event="done")


if __name__ == "__main__":
    main()
