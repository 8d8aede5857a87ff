"""Every error this project raises on purpose.

    LLMError
    ├── ConfigError        a setting is unknown, out of range, or contradicts another
    ├── CheckpointError    a file is missing, damaged, or does not hold the model it should
    │   └── DamagedCheckpoint  … because it is not what was written: an earlier one may be whole
    ├── TokenizerError     text or ids that the tokenizer cannot map
    │   └── UnknownToken   … because a character or id is not in its vocabulary (also a KeyError)
    ├── DataError          a corpus or a dataset that cannot be trained on
    ├── TrainingError      a run that cannot go on, because its loss is no longer a number
    ├── RequestError       a generation request that cannot be served as asked (also a ValueError)
    └── InferenceError     a completion that cannot go on, because its logits are no numbers or its grammar failed

A message says which value, what is allowed, and what to do next. The command line prints it without a
traceback, the server sends it as OpenAI's error body.
"""

from collections.abc import Iterable


class LLMError(Exception):
    """Base of the errors that a person can mend; anything else is a bug."""


class ConfigError(LLMError, ValueError):
    """A setting is unknown, out of range, or contradicts another one.

    Attributes:
        field: the name of the offending setting, where there is one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CheckpointError(LLMError):
    """A model or training file is missing, damaged, or holds something else than asked for."""


class DamagedCheckpoint(CheckpointError):
    """A saved state that is not what was written."""


class TokenizerError(LLMError, ValueError):
    """A tokenizer cannot be loaded, or cannot do what is asked of it."""


class UnknownToken(TokenizerError, KeyError):
    """A character or an id that is not in the vocabulary."""

    # KeyError quotes its message with repr(); people should read it plainly.
    __str__ = Exception.__str__


class DataError(LLMError):
    """A corpus or dataset is missing, empty or too small."""


class TrainingError(LLMError):
    """A training run that cannot go on."""


class RequestError(LLMError, ValueError):
    """A generation request that cannot be served as asked.

    Attributes:
        param: the name of the offending field, where there is one.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InferenceError(LLMError):
    """A completion that cannot go on."""


class LLMWarning(UserWarning):
    """What was read is not quite what its file says; the message says what was done instead."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """The known name spelled most like `name`, for "did you mean"; None where none is as similar as `cutoff` (0 to 1).

    >>> nearest("max_bacth", ["max_batch", "max_queue"])
    'max_batch'
    """
    import difflib

    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)
