"""The errors a user may meet, each with the exit code the command line ends with."""


class AuditError(Exception):
    """Base of every error leaktune raises on purpose; its message says expected, got, remedy."""

    exit_code = 1


class PlanError(AuditError, ValueError):
    """The plan or the command line asks for something that does not exist or cannot work."""

    exit_code = 2


class InputError(AuditError, ValueError):
    """A file or an array given as input is missing, malformed, unsafe or not what was promised."""

    exit_code = 3


class UnsupportedModelError(AuditError, ValueError):
    """The target model lacks a part that a defense, an attack or a metric needs."""

    exit_code = 2


class InfrastructureError(AuditError, RuntimeError):
    """The cluster, the storage or the tracking server failed."""

    exit_code = 4
