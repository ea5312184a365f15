"""Every error that leaves this package, as one tree.

::

    FetcherError
    ├── InternalError       1    a bug of ours
    ├── UsageError          2    wrong arguments or settings
    ├── ResourceError      10    a bad definition; carries every fault of the document
    ├── PartialError       11    some items of a list failed
    ├── NotFoundError      21    the origin said: not there (for this asker)
    ├── DeniedError        22    the origin said: not for this credential
    ├── RateLimitedError   23    the origin said: later than we may wait
    ├── OfflineError       24    not usable without network
    ├── ForbiddenError     25    our own policy: guard, names, sizes
    ├── TransportError     30    time-outs, stalls, 5xx to the end, origin changed
    ├── IntegrityError     40    bytes are not what the origin vouched for
    ├── NoSpaceError       50    the disk or the budget is full
    ├── CacheError         51    the cache directory can't be used as it is
    ├── LeaseError         60    unknown or ended lease
    ├── ImageError         70    a container engine said no
    └── InterruptedByUser 130    Ctrl-C

A class carries what programs branch on (``kind``, ``exit_code``, ``retryable``); an instance carries what people need
(``message``, ``hint``, ``resource``, ``at``). Messages never hold a secret: values that may are of type ``Secret``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class FetcherError(Exception):
    """Base of all errors of this package; ``str()`` is the message without the hint."""

    kind: ClassVar[str] = "internal"
    """Stable word for programs; the same as in the JSON ``error`` event."""
    exit_code: ClassVar[int] = 1
    """Exit code of the command line for this kind."""
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later with nothing changed by the caller."""

    def __init__(
        self, message: str, *, hint: str | None = None, resource: str | None = None, at: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.resource = resource
        self.at = at
        self.also: tuple[FetcherError, ...] = ()
        """Errors about other resources of the same call, where more than one was found out."""

    def about(self, *, resource: str | None = None, at: str | None = None) -> FetcherError:
        """Fill in what an inner floor could not know; what is already said stays. Returns self, to be raised."""
        self.resource = self.resource or resource
        self.at = self.at or at
        return self


class InternalError(FetcherError):
    """A state that our own code promised could not happen."""


class UsageError(FetcherError):
    """Wrong arguments, options or settings."""

    kind = "usage"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a document."""

    at: str
    """JSON path, as ``$.ops[0].args.resources[2].repo``."""
    message: str
    hint: str | None = None


class ResourceError(FetcherError):
    """A definition that can't be used. All faults of a document are reported together, in document order."""

    kind = "resource"
    exit_code = 10

    def __init__(
        self,
        message: str,
        *,
        faults: Iterable[Fault] = (),
        hint: str | None = None,
        resource: str | None = None,
        at: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, resource=resource, at=at)
        self.faults: tuple[Fault, ...] = tuple(faults)

    @classmethod
    def of(cls, faults: Iterable[Fault], *, document: str) -> ResourceError:
        """The error for a document with ``faults`` (at least one)."""
        found = tuple(faults)
        first = found[0]
        if len(found) == 1:
            return cls(first.message, faults=found, hint=first.hint, at=first.at)
        lines = "\n".join(f"  {fault.at}: {fault.message}" for fault in found)
        return cls(f"{document} has {len(found)} faults:\n{lines}", faults=found, hint=first.hint, at=first.at)


class PartialError(FetcherError):
    """Some items of a list failed while others are ready."""

    kind = "partial"
    exit_code = 11


class NotFoundError(FetcherError):
    """The origin answered this asker that the thing is not there."""

    kind = "not_found"
    exit_code = 21


class DeniedError(FetcherError):
    """The origin refused this asker's credential, or the lack of one."""

    kind = "denied"
    exit_code = 22


class RateLimitedError(FetcherError):
    """The origin asks to come back later than the time limit allows to wait."""

    kind = "rate_limited"
    exit_code = 23
    retryable = True


class OfflineError(FetcherError):
    """The request needs the network, and the caller said not to use it."""

    kind = "offline"
    exit_code = 24
    retryable = True


class ForbiddenError(FetcherError):
    """Refused by our own policy: a guarded address, a hostile name, a size beyond bounds."""

    kind = "forbidden"
    exit_code = 25


class TransportError(FetcherError):
    """The network or the origin failed until the time limit."""

    kind = "transport"
    exit_code = 30
    retryable = True


class IntegrityError(FetcherError):
    """The bytes are not what the origin vouched for, twice. Nothing of them was published."""

    kind = "integrity"
    exit_code = 40
    retryable = True


class NoSpaceError(FetcherError):
    """The disk, the quota or the floor of free space does not allow these bytes."""

    kind = "no_space"
    exit_code = 50


class CacheError(FetcherError):
    """The cache or state directory can't be used, or what is in it is not what we wrote."""

    kind = "cache"
    exit_code = 51


class LeaseError(FetcherError):
    """The lease is unknown, or it has ended."""

    kind = "lease"
    exit_code = 60


class ImageError(FetcherError):
    """A container image could not be made present."""

    kind = "image"
    exit_code = 70


class InterruptedByUser(FetcherError):
    """Stopped by Ctrl-C or SIGTERM; Partials are kept."""

    kind = "interrupted"
    exit_code = 130
    retryable = True


ERROR_CLASSES: tuple[type[FetcherError], ...] = (
    InternalError,
    UsageError,
    ResourceError,
    PartialError,
    NotFoundError,
    DeniedError,
    RateLimitedError,
    OfflineError,
    ForbiddenError,
    TransportError,
    IntegrityError,
    NoSpaceError,
    CacheError,
    LeaseError,
    ImageError,
    InterruptedByUser,
)
