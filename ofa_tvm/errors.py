"""Errors meant for people: one plain sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the program is wrong (a file, a device, a budget); the CLI prints it and exits 1."""

    exit_code = 1


class UsageError(UserError):
    """The request itself cannot be understood or met as typed; the CLI prints it and exits 2."""

    exit_code = 2
