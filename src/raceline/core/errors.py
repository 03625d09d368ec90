"""Every error Raceline raises on purpose, grouped by who must act.

RacelineError
├── RequestError                the caller changes the request
│   ├── BadModelError           the model file or graph is broken
│   │   └── UnsupportedOperatorError
│   ├── ShapeError              a tensor's name, type or shape does not fit the signature
│   ├── UnknownNameError        no such model, engine, format or plug-in
│   └── ConfigError             an option or setting is impossible
├── UnavailableError            try again later
│   ├── QueueFullError
│   ├── DeadlineError           it could not be done in the time the caller gave
│   ├── NotReadyError
│   └── BackendLostError
├── MissingDependencyError      install something; the message prints the command
├── UntrustedUpdateError        stop: what was offered is not what was signed
└── InvariantError              a bug of ours

Ordinary refusals are values, not exceptions. No HTTP, gRPC or exit code is named here: each edge has
one table that maps every class.
"""

from collections.abc import Sequence


class RacelineError(Exception):
    """Base of all deliberate errors: what happened, why, and the next step.

    Args:
        what: one sentence without a final stop, naming the file, tensor or option.
        why: the cause, as far as it is known.
        next_step: what the reader can do now.
    """

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        self.what = what
        self.why = why
        self.next_step = next_step
        text = f"{what}: {why}" if why else what
        if next_step:  # a cause that another message gave may end with a stop of its own
            text += f"{'' if text.endswith('.') else '.'} {next_step}"
        super().__init__(text)


class RequestError(RacelineError):
    """The caller must change the request."""


class BadModelError(RequestError):
    """A model file or graph is broken, hostile or beyond the limits."""


class UnsupportedOperatorError(BadModelError):
    """Operators that nothing here can run, all of them at once.

    Args:
        source: the model's name or path.
        uses: operator name -> the nodes that use it.
        next_step: the suggested way out.
    """

    def __init__(self, source: str, uses: dict[str, list[str]], next_step: str = "") -> None:
        self.uses = uses
        listing = "; ".join(f"{op} ({_some(nodes)})" for op, nodes in sorted(uses.items()))
        operators = "operator" if len(uses) == 1 else "operators"
        super().__init__(f"{source} uses {len(uses)} unsupported {operators}", listing, next_step)


class ShapeError(RequestError):
    """A tensor's name, element type or shape does not fit the signature."""


class UnknownNameError(RequestError):
    """A name that nothing here carries; the message lists those that exist."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        self.name = name
        super().__init__(f"there is no {kind} named {name!r}", f"there are: {', '.join(known) or 'none'}")


class ConfigError(RequestError):
    """An option or setting is impossible."""


class UnavailableError(RacelineError):
    """Trying again later may help."""


class QueueFullError(UnavailableError):
    """More work is waiting than the queue may hold."""


class DeadlineError(UnavailableError):
    """The work could not be done in the time the caller gave."""


class NotReadyError(UnavailableError):
    """Still loading, or draining before a stop."""


class BackendLostError(UnavailableError):
    """A process or machine that does the work went away."""


class MissingDependencyError(RacelineError):
    """An optional dependency is absent; the message carries the command that installs it."""

    def __init__(self, needed_by: str, module: str, install: str) -> None:
        super().__init__(f"{needed_by} needs {module!r}, which is not installed", next_step=f"Run: {install}")


class UntrustedUpdateError(RacelineError):
    """What was offered is not what was signed."""


class InvariantError(RacelineError):
    """Something that cannot happen did: a bug in Raceline."""


def _some(names: list[str], limit: int = 3) -> str:
    """The first few names, and how many more."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
