"""Errors that carry an exit code. The message is one sentence: what, where, found, allowed."""


class InputError(ValueError):
    """Wrong input from the user: exit code 2."""


class GateError(RuntimeError):
    """A gate or audit that the user asked to enforce (`--strict`) failed: exit code 3."""
