"""Errors a user can act on. The command line prints them without a traceback and exits with their code."""


class JaxalignError(Exception):
    """Something outside the program is wrong; the message says what, where and how to mend it."""

    exit_code = 1


class ConfigError(JaxalignError):
    """An experiment, an override or a run directory that does not fit the other two."""

    exit_code = 2


class DataError(JaxalignError):
    """Prompts or preference data that cannot be used; names the file, the line and the field."""

    exit_code = 3


class ModelError(JaxalignError):
    """Weights, tokenizer or template that cannot be used; names the file and the tensor or field."""

    exit_code = 4


class CheckpointError(JaxalignError):
    """A run directory that cannot be read or written; the last committed state is intact."""

    exit_code = 5


class NotCommitted(CheckpointError):
    """What iteration `iteration` of a run makes is not there, or no longer."""

    def __init__(self, what: str, iteration: int):
        super().__init__(f"{what}; the command that made the run makes it again")
        self.iteration = iteration


class DoesNotFit(JaxalignError):
    """A plan whose programs need more memory than the chips have."""

    exit_code = 8


class BrokenContract(JaxalignError):
    """A component that returned what its contract does not allow; nothing was made of it."""

    exit_code = 10


class ServerError(JaxalignError):
    """A server that is asked for answers gives none; what it answered before is kept and is not asked again."""

    exit_code = 11


class Interrupted(JaxalignError):
    """A stop was asked for and everything up to it is committed; the same command continues."""

    exit_code = 75


BUCKET_LIBRARIES = ("gcsfs", "google", "aiohttp", "requests", "urllib3")
"""Who talks to buckets, and raises errors of its own that are none of the operating system's."""


def first_line(error: BaseException) -> str:
    """What an error of others says first, at most 300 characters of it: compilers and TensorStore go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
