"""What goes wrong between here and the hub, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Error, FormatError, ParameterError, shown
from .cache import folder_error
from .names import HubModel

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@contextmanager
def hub_errors(model: HubModel) -> Iterator[None]:
    """Turns what the library and the HTTP client below it raise into jiffy's errors.

    ParameterError: no such repository or revision. FormatError: access is refused, no connection, the hub fails or
    answers nonsense, the cache folder is full or can't be written.
    """
    try:
        yield
    except (Error, MemoryError):
        raise
    except Exception as error:  # the library documents no common base of what it raises
        raise _explained(model, error) from None


def _explained(model: HubModel, error: Exception) -> Error:
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        expected = f"access: accept the terms on {endpoint}/{model.repo}, then {_LOG_IN}"
        return FormatError(str(model), expected=expected, found="a gated repository")
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        expected = f"a repository on {endpoint} (for a private one, {_LOG_IN})"
        return ParameterError("name_or_path", expected=expected, found=shown(model.repo))
    if isinstance(error, errors.RevisionNotFoundError):
        expected = f"a branch, tag or commit of {model.repo}"
        return ParameterError("name_or_path", expected=expected, found=shown(model.revision))
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return _refused(model, endpoint, error.response.status_code)
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return folder_error(error, Path(constants.HF_HUB_CACHE), "set HF_HOME to another folder")
    expected = f"an answer from {endpoint} (is the network up? What came whole is kept), or a path to a model"
    reason = error.__cause__ or error.__context__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    lines = str(reason or error).splitlines() or [""]
    return FormatError(str(model), expected=expected, found=f"{type(reason or error).__name__}: {lines[0]}")


def _refused(model: HubModel, endpoint: str, status: int) -> Error:
    if status in (401, 403):
        expected = f"a repository on {endpoint} and a token that may read it: {_LOG_IN}"
    else:
        expected = f"an answer from {endpoint} (try again later; whole files are kept)"
    return FormatError(str(model), expected=expected, found=f"HTTP status {status}")
