"""Errors that carry an exit code. The message is one sentence: what, where, found, allowed."""


class InputError(ValueError):
    """Wrong input from the user: exit code 2."""


class Interrupted(RuntimeError):
    """A signal ended the work, with all that is needed to go on written: exit code 128 + signal."""

    def __init__(self, number: int, told: str) -> None:
        super().__init__(told)
        self.number = number


class SimulationStopped(RuntimeError):
    """A simulation ended before its time; the message says at which step and why: exit code 1."""


class GateError(RuntimeError):
    """A gate or audit that the user asked to enforce (`--strict`) failed: exit code 3."""
