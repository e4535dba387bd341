"""Every error vLLama raises on purpose.

    VllamaError
    ├── RequestError            400  the client's mistake, Ollama's text
    │   ├── BodyError           400  the body is not the JSON that the route reads
    │   ├── PromptTooLong       400  the prompt does not fit the context and may not be cut
    │   └── TemplateError       400  a template in the request or in the model does not parse or run
    │       └── TemplateLimit   400  it does more than it may
    ├── ForbiddenError          403
    ├── NotFoundError           404
    │   └── ModelNotFound       404
    ├── RequestCanceled         499  the client went away
    ├── ServerError             500
    │   ├── ModelLoadError      500  the engine could not load the model
    │   ├── EngineCrashed       500  the worker died under a request
    │   └── ConfigError         500  a setting, flag or file is wrong (the CLI prints it and exits with 1)
    ├── NotImplementedYet       501  known, wanted, not there yet
    └── BusyError               503  the queue is full, or the server is going down

Each error carries its HTTP status and the text that goes on the wire; `vllama.api` has one function
for each API's envelope. No foreign exception may leak past the package that called the library.
"""

from __future__ import annotations


class VllamaError(Exception):
    """Base of the tree. `text` goes to the client as it is; `status` is the HTTP status.

    `from_engine` marks what came after the request had been accepted: Ollama sends that in another form.
    """

    status = 500
    from_engine = False

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        if status is not None:
            self.status = status


class RequestError(VllamaError):
    """The client's mistake; says what to change."""

    status = 400


class BodyError(RequestError):
    """The body is not JSON, or has a wrong type at a named place (Go's own error text)."""


class PromptTooLong(RequestError):
    """The prompt does not fit the context, and the request forbids cutting it."""

    def __init__(self, text: str, *, prompt_tokens: int, context: int) -> None:
        super().__init__(text)
        self.prompt_tokens = prompt_tokens
        self.context = context


class TemplateError(RequestError):
    """A Go or Jinja template does not parse, or fails while it runs."""


class TemplateLimit(TemplateError):
    """A template takes more steps than its budget has."""


class ForbiddenError(VllamaError):
    """The server is set up to refuse this."""

    status = 403


class NotFoundError(VllamaError):
    """The thing that was named does not exist."""

    status = 404


class ModelNotFound(NotFoundError):
    """No model of that name in the store or in an installed package."""


class RequestCanceled(VllamaError):
    """The client went away before the answer began."""

    status = 499

    def __init__(self, text: str = "request canceled") -> None:
        super().__init__(text)


class ServerError(VllamaError):
    """Our fault, or the machine's."""


class ModelLoadError(ServerError):
    """The engine could not load the model file; the text names the file and the reason."""


class EngineCrashed(ServerError):
    """The engine's process died while it worked for this request."""


class ConfigError(ServerError):
    """A setting cannot be used; names the setting and its source."""


class NotImplementedYet(VllamaError):
    """Asked for something that vLLama knows but does not do yet."""

    status = 501


class BusyError(VllamaError):
    """No room in the bounded queue, or the server is going down."""

    status = 503

    def __init__(self, text: str = "server busy, please try again.  maximum pending requests exceeded") -> None:
        super().__init__(text)
