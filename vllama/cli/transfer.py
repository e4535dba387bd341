"""`vllama pull` and `push`, and what `run` does about a model that is missing: a bar for each blob."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from vllama.cli import humanize, reach
from vllama.cli.client import Client
from vllama.errors import ServerError, VllamaError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")


def pull_model(model: str, host: str | None, insecure: bool, source: str = "") -> None:
    """Bring a model from its registry or from Hugging Face, or bring it up to date."""
    with reach.server(host) as client:
        transfer(client, "pull", model, insecure, {"from": source} if source else {})


def push_model(model: str, host: str | None, insecure: bool) -> None:
    """Send a model to the registry that its name says."""
    with reach.server(host) as client:
        transfer(client, "push", model, insecure)


def transfer(
    client: Client, verb: str, model: str, insecure: bool, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """One pull or push with its progress on standard error. Raises VllamaError."""
    body = {"model": model, "insecure": insecure, **more}
    show = _bars if sys.stderr.isatty() else _lines
    with closing(client.stream(f"/api/{verb}", body)) as items:
        last = show(items)
    if last.get("status") != "success":
        raise ServerError(f"the {verb} of {model} ended before its end")


def with_pull(client: Client, model: str, insecure: bool, act: Callable[[], T]) -> T:
    """What `act` does; if it says that the model is not there, the model is pulled and it acts again."""
    try:
        return act()
    except VllamaError as error:
        if error.status != 404 or not error.text.startswith("model "):
            raise
        missing = error
    try:
        transfer(client, "pull", model, insecure)
    except VllamaError as error:
        raise VllamaError(f"{missing.text}, and it cannot be pulled: {error.text}", status=error.status) from error
    return act()


def _lines(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """For logs and pipes: each status once, with the size where there is one."""
    last: dict[str, Any] = {}
    for item in items:
        if item.get("status") != last.get("status"):
            size = f" ({humanize.size(item['total'])})" if item.get("total") else ""
            print(f"{item.get('status', '')}{size}", file=sys.stderr, flush=True)
        last = item
    return last


def _bars(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """For a terminal: a line for each step; blobs have a bar, how fast they come and how long they will take."""
    last: dict[str, Any] = {}
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}
        step: TaskID | None = None
        for item in items:
            last = item
            status, digest, total = item.get("status", ""), item.get("digest"), item.get("total")
            if digest and total:
                _ended(progress, step)
                step = None
                if digest not in tasks:
                    done = item.get("completed", 0)
                    # What was there already says nothing about the speed.
                    tasks[digest] = progress.add_task(status, total=total, completed=done, sized=True)
                progress.update(tasks[digest], description=status, completed=item.get("completed", 0))
            elif step is None or progress.tasks[progress.task_ids.index(step)].description != status:
                _ended(progress, step)
                step = progress.add_task(status, total=None, sized=False)
        _ended(progress, step)
    return last


def _ended(progress: Progress, step: TaskID | None) -> None:
    """The sign of a step that is over stops turning."""
    if step is not None:
        progress.update(step, total=1, completed=1)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Sized(ProgressColumn):
        """A column that only blobs have."""

        def __init__(self, inner: ProgressColumn) -> None:
            super().__init__()
            self._inner = inner

        def render(self, task: Task) -> Any:
            """Nothing for a step without a size."""
            return self._inner.render(task) if task.fields.get("sized") else Text("")

    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        *(
            Sized(column)
            for column in (
                TextColumn("{task.percentage:>3.0f}%"),
                BarColumn(bar_width=None),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(compact=True),
            )
        ),
        console=Console(stderr=True),
        expand=True,
    )
