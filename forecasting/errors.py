"""What can go wrong, as types. Every message says what came, what is allowed and what to do.

GlucastError
├── InvalidInput            something was given that cannot be used
│   ├── InvalidReadings     unit, order, time or value of readings
│   └── InvalidSetting      an option or a run file
├── InsufficientData        a normal answer: too few readings, a gap, a stale last reading
├── NotFound                a dataset, patient, backbone, weights or model that is not there
├── RoleRefused             a backbone asked to do what the matrix does not allow
├── IntegrityError          a bundle or a cache that is not what it says it is
├── RegistryUnavailable     the registry does not answer
├── WeightsUnavailable      pretrained weights cannot be fetched
├── Overloaded              more waits than can be answered in time
└── TooLate                 the answer would come after the caller's deadline
"""


class GlucastError(Exception):
    """Base of all errors a user may see; the message is one sentence fit for a terminal."""


class InvalidInput(GlucastError):
    """Something was given that cannot be used. `field` names it when it came in a request."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class InvalidReadings(InvalidInput):
    """Readings whose unit, order, time or value cannot be used."""


class InvalidSetting(InvalidInput):
    """An option or a run file that cannot be used."""


class InsufficientData(GlucastError):
    """Too few readings, a gap, or a stale last reading: a normal answer, not a fault."""


class NotFound(GlucastError):
    """A dataset, patient, backbone or model that is not there."""


class RoleRefused(GlucastError):
    """A backbone asked to do what the matrix of supported models does not allow."""


class IntegrityError(GlucastError):
    """A bundle or a cached file that is not what it says it is."""


class RegistryUnavailable(GlucastError):
    """The model registry does not answer."""


class WeightsUnavailable(GlucastError):
    """Pretrained weights that cannot be fetched or read."""


class Overloaded(GlucastError):
    """More waits than can be answered in time; `retry_seconds` is when to try again."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class TooLate(GlucastError):
    """The answer would come after the caller's deadline, and was not computed."""
