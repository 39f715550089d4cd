"""Errors meant for people: one plain sentence that says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the program is wrong (a file, a device, a budget); the CLI prints it and exits 1."""

    exit_code = 1


class UsageError(UserError):
    """The request itself cannot be understood or met as typed; the CLI prints it and exits 2."""

    exit_code = 2


def shorten(text: str, most: int) -> str:
    """A text of which the middle is left out where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 3]}...{text[-(most // 3) :]}"


def shown(value: object, most: int = 60) -> str:
    """A value as messages quote it: its repr, shortened."""
    if isinstance(value, str) and len(value) > 2 * most:  # else all of it would be escaped first
        value = value[:most] + value[-most:]
    try:
        return shorten(repr(value), most)
    except (RecursionError, ValueError):  # nested or long without end
        return f"a {type(value).__name__}"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 CPU", "51,351 calls"; `many` where the plural is not `one` and an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
