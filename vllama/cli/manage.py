"""`vllama stop`, `cp`, `rm` and `version`."""

from __future__ import annotations

from vllama import __version__
from vllama.cli import options, reach
from vllama.cli.client import Client, serves_vllama
from vllama.cli.table import print_json
from vllama.errors import NotFoundError, VllamaError


def stop_model(model: str, host: str | None) -> None:
    """Unload a model on the running server."""
    with reach.running(host) as client:
        _unload(client, model)


def _unload(client: Client, model: str) -> None:
    try:
        client.post("/api/generate", {"model": options.model_name(model), "keep_alive": 0, "stream": False})
    except VllamaError as error:
        if error.status == 404:
            raise NotFoundError(f'couldn\'t find model "{model}" to stop') from None
        raise


def copy_model(source: str, destination: str, host: str | None) -> None:
    """Give a model a second name."""
    with reach.server(host) as client:
        client.post("/api/copy", {"source": source, "destination": destination})
    print(f"copied '{source}' to '{destination}'")


def remove_models(models: list[str], host: str | None) -> None:
    """Unload and delete models, one after the other; the first that fails ends it."""
    with reach.server(host) as client:
        for model in models:
            _unload_if_there(client, model)
            client.delete("/api/delete", {"model": model})
            print(f"deleted '{model}'")


def _unload_if_there(client: Client, model: str) -> None:
    """Deleting says better than unloading what is wrong with a name."""
    try:
        _unload(client, model)
    except NotFoundError:
        pass
    except VllamaError as error:
        if error.status >= 500:
            raise


def print_version(host: str | None, as_json: bool) -> None:
    """This program's version, and the server's where one answers."""
    from vllama.config import load_settings, parse_host

    address = load_settings().host if host is None else parse_host(host)
    server = serves_vllama(address)
    if as_json:
        print_json({"version": __version__, "server": server or None, "host": address.url})
        return
    print(f"vllama version is {__version__}")
    if not server:
        print(f"no vLLama server answers at {address.connectable.url}")
    elif server != __version__:
        print(f"Warning: the server at {address.connectable.url} has version {server}")
