"""What goes wrong between us and Hugging Face, told with the next step to take."""

from __future__ import annotations

from vllama.errors import ModelNotFound, ServerError, VllamaError


class HubError(ServerError):
    """The hub refused, could not be reached, or sent something else than it promised."""


class RepositoryMissingError(ModelNotFound):
    """There is no such repository, or it is hidden from whoever asks without its owner's token."""


class GatedError(VllamaError):
    """The repository's terms must be accepted first, by somebody who has a token."""

    status = 403


class CancelledDownloadError(HubError):
    """Whoever wanted the file has gone."""

    def __init__(self) -> None:
        super().__init__("the download was cancelled")


def told(error: Exception, repo: str, endpoint: str, *, token: bool) -> VllamaError:
    """The error of the library in our words. `token`: whether one was sent."""
    from huggingface_hub import errors

    page = f"{endpoint}/{repo}"
    code = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.GatedRepoError):
        if token:
            return GatedError(f"{repo} is gated, and your token has no access: ask for it at {page}, then pull again")
        return GatedError(
            f"{repo} is gated: accept its terms at {page}, then set HF_TOKEN or run `hf auth login`, and pull again"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        hidden = "your token cannot see it" if token else "it is private: set HF_TOKEN or run `hf auth login`"
        return RepositoryMissingError(f"there is no {repo} at {endpoint}, or {hidden}")
    if isinstance(error, errors.HFValidationError):
        return RepositoryMissingError(f"{repo} cannot be the name of a repository at {endpoint}")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return HubError(f"a file of {repo} went away while it was pulled; pull again")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline(repo)
    if code in (401, 403):
        wrong = "does not accept your token: check HF_TOKEN, or run `hf auth login`"
        return GatedError(f"{endpoint} {wrong if token else 'wants a token: set HF_TOKEN or run `hf auth login`'}")
    if code == 429:
        return HubError(
            f"{endpoint} says that we ask too often; pull again later, with HF_TOKEN set to be let more often"
        )
    if code:
        return HubError(f"{endpoint} answered {code} for {repo}; pull again later")
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(cause, errors.HfHubHTTPError):
        return told(cause, repo, endpoint, token=token)
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return HubError(f"cannot write the Hugging Face cache: {error.strerror}: {error.filename}")
    reason = str(cause or error).strip().partition("\n")[0][:300] or type(error).__name__
    if type(cause).__module__.partition(".")[0].startswith(("httpx", "httpcore")):
        return HubError(
            f"cannot reach {endpoint}: {reason}; pull again when it can be reached. Finished files are kept. "
            "HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 uses what is in the cache"
        )
    return HubError(f"{repo} could not be pulled from {endpoint}: {reason}; pull again, finished files are kept")


def offline(repo: str) -> HubError:
    """What is wanted is not in the cache, and the hub may not be asked."""
    return HubError(f"{repo} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set: pull it without that")
