"""What the APIs call: one request in, one running answer out.

Order of the checks is Ollama's (name, unload, capabilities, options, load, prompt), because clients see
which error comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama.config import Settings
from vllama.core.answer import Answer, ContextMaker, Instant, dropped
from vllama.core.apart import Apart
from vllama.core.choosing import choose_engine, own_settings
from vllama.core.constraint import constraint_of
from vllama.core.conversation import history, turns
from vllama.core.embedding import UNSUPPORTED, embedding_of, shorten
from vllama.core.options import Options, merge_options
from vllama.core.prompting import Prompter, Prompting, known_capabilities, template_values
from vllama.core.remote_chat import chat_of
from vllama.core.rendering import Rendering, executed, fitted, long_template, prepared
from vllama.core.replies import Embedded, Reply
from vllama.core.requests import ChatRequest, EmbedRequest, GenerateRequest
from vllama.core.residency import GOING_DOWN, Lease, Residency
from vllama.core.upstreams import Upstreams
from vllama.engines.base import Chat, Engine, Finished, Generation, LoadOptions, Started
from vllama.engines.fitting import TOO_LONG
from vllama.engines.registry import EngineKind
from vllama.errors import (
    BusyError,
    ForbiddenError,
    ModelNotFound,
    NotImplementedYet,
    PromptTooLong,
    RequestError,
    ServerError,
    VllamaError,
)
from vllama.goquote import quote
from vllama.hardware import facts
from vllama.models.directory import is_model_directory, model_from_directory
from vllama.models.library import Library, file_name, looks_like_path
from vllama.models.model import Model
from vllama.models.names import Name
from vllama.prompts.messages import Think
from vllama.prompts.tools import OutputParser

if TYPE_CHECKING:
    from vllama.models.registry.transfers import Transfers

log = logging.getLogger("vllama.service")

DEFAULT_CONTEXT = 4096
MAX_BATCH = 8192
"""Most tokens of one step: buffers grow with it, and beyond this nothing gets faster."""

Chooser = Callable[[Model], EngineKind]


@dataclass(frozen=True, slots=True)
class _Job:
    """What generate and chat have in common once the prompt is rendered."""

    options: Options
    num_ctx: int
    prompt: str
    truncate: bool
    shift: bool
    format: Any
    top_logprobs: int | None

    @classmethod
    def of(cls, request: GenerateRequest | ChatRequest, options: Options, num_ctx: int, prompt: str) -> _Job:
        return cls(
            options=options,
            num_ctx=num_ctx,
            prompt=prompt,
            truncate=request.truncate is not False,
            shift=request.shift is not False,
            format=request.format,
            top_logprobs=request.top_logprobs if request.logprobs else None,
        )


class Service:
    """The core behind every API. Made once per server; `start` and `stop` frame its life."""

    def __init__(self, settings: Settings, library: Library, chooser: Chooser | None = None) -> None:
        self.settings = settings
        self.library = library
        self.prompter = Prompter()
        self.apart = Apart()
        self.residency = Residency(
            chooser or self._choose,
            keep_alive=settings.keep_alive,
            max_loaded=settings.max_loaded_models,
            max_queue=settings.max_queue,
            load_timeout=settings.load_timeout,
            hardware=facts,
        )
        self._paths_allowed = settings.host.is_loopback
        self._draining = False
        self._transfers: Transfers | None = None
        self._cores = os.cpu_count() or 1
        self.upstreams = Upstreams(settings, library)

    def _choose(self, model: Model) -> EngineKind:
        return choose_engine(model, self.settings).kind

    async def start(self) -> None:
        """Learns what upstreams have; loads happen on demand."""
        await self.upstreams.start()

    async def preload(self, name: str) -> None:
        """Load a model (`vllama serve --model`). One that is a file is listed from then on, and has a short name.

        `org/name` is pulled if it is not there.
        """
        try:
            model = self.resolve(name, allow_path=True)
        except ModelNotFound:
            from vllama.core.pulling import elsewhere, fetch

            if not elsewhere(name):
                raise
            await fetch(self, name, partial(log.info, "pulling %s: %s", name))
            model = self.resolve(name, allow_path=True)
        if model.origin == "file":
            self.library.add_file(model)
        lease, _, _ = await self._lease(model, {}, None)
        lease.release()

    async def drain(self, grace: float) -> None:
        """Refuse new requests; let running answers end within `grace` seconds, then tell the others."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.residency.idle(), grace)
        await self.stop()

    async def stop(self) -> None:
        """Close every engine. Answers that still run end with an error that says so."""
        self._draining = True
        if self._transfers is not None:
            await asyncio.to_thread(self._transfers.close)
        await self.upstreams.stop()
        await self.residency.stop()
        await asyncio.to_thread(self.apart.close)

    @property
    def transfers(self) -> Transfers:
        """Pulls and pushes. Made when first asked for: an HTTP client is slow to import."""
        if self._transfers is None:
            from vllama.models.registry.transfers import Transfers

            self._transfers = Transfers(self.library.store, prune=not self.settings.noprune)
        return self._transfers

    @property
    def draining(self) -> bool:
        """True once the server is going down."""
        return self._draining

    # -- names ---------------------------------------------------------------------------------------------

    def resolve(self, name: str, *, allow_path: bool = False) -> Model:
        """The model of that name. Raises `ModelNotFound` or `RequestError` with Ollama's text.

        A path to a file is a name where only this machine can ask, or with `allow_path`; a directory only with that.
        """
        if allow_path and is_model_directory(name):
            folder = Path(name).expanduser().absolute()
            # its name has no ending that is none of the name
            return model_from_directory(name, file_name(folder.with_name(folder.name + ".d")), self.library.inspect)
        try:
            model = self.library.resolve(name, allow_path=allow_path or self._paths_allowed)
        except ModelNotFound:
            if self.settings.engine != "scripted" or not Name.parse(name).valid:
                raise
            # The scripted engine needs no weights, so it answers under any name.
            model = Model(Name.parse(name), digest="0" * 64, size=0, modified_at=datetime.fromtimestamp(0, UTC))
        if model.config.remote_host:
            raise ForbiddenError("ollama cloud is disabled: remote model is unavailable")
        return model

    # -- generate ------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> Reply:
        """POST /api/generate. Raises `VllamaError` for everything that has a status."""
        began = time.monotonic_ns()
        model = self.resolve(request.model)
        if not request.prompt and request.keep_alive == 0:
            await self.residency.unload(model)
            return Instant("unload")
        if request.raw and (request.template or request.system or request.context):
            raise RequestError("raw mode does not support template, system, or context")
        await _known(model)
        think = self._check(model, request.model, "generate", request.think, insert=bool(request.suffix))
        lease, options, num_ctx = await self._lease(model, request.options, request.keep_alive)
        load_ns = time.monotonic_ns() - began
        try:
            if not request.prompt:
                lease.release()
                return Instant("load")
            self._check_images(model, bool(request.images), request.debug_render_only)
            if lease.engine.facts.takes_messages and not (request.raw or request.template):
                chat = _unrendered(request, chat_of(turns(request, model), (), think))
                job = _Job.of(request, options, num_ctx, "")
                return await self._run(job, lease, began, load_ns, quiet=False, chat=chat)
            prompting = await prepared(self.prompter, model, lease.engine.facts)
            prompt, left_out = await self._generate_prompt(request, model, prompting, lease.engine, num_ctx, think)
            if request.debug_render_only:
                lease.release()
                return Instant("render", prompt, len(request.images), dropped(left_out))
            job = _Job.of(request, options, num_ctx, prompt)
            parser = None if request.raw else prompting.output_parser(prompt, think, ())
            context = None if request.raw else partial(_context, lease.engine, prompt)
            return await self._run(
                job,
                lease,
                began,
                load_ns,
                parser=parser,
                control=() if request.raw else prompting.control(()),
                quiet=False,
                want_ids=not request.raw,
                context=context,
                constrain_after="" if request.raw else prompting.answer_mark(None),
                dropped_messages=left_out,
            )
        except BaseException:
            lease.release()
            raise

    async def _generate_prompt(
        self,
        request: GenerateRequest,
        model: Model,
        prompting: Prompting,
        engine: Engine,
        num_ctx: int,
        think: Think | None,
    ) -> tuple[str, int]:
        """The prompt, and how many messages were left out of it."""
        if request.raw:
            return request.prompt, 0
        prefix = ""
        if request.context:
            prefix = await engine.detokenize(request.context)
        if request.suffix or request.template:
            if request.suffix:
                values = template_values(prompt=request.prompt, suffix=request.suffix, think=think)
            else:
                values = template_values(messages=turns(request, model), think=think)
            return prefix + await executed(self.apart, request.template or prompting.go, values), 0
        messages = turns(request, model)
        rendering = Rendering(prompting, messages, (), think)
        text, left_out = await fitted(self.apart, engine, rendering, num_ctx, truncate=request.truncate is not False)
        return prefix + text, left_out

    # -- chat ----------------------------------------------------------------------------------------------

    async def chat(self, request: ChatRequest) -> Reply:
        """POST /api/chat. Raises `VllamaError` for everything that has a status."""
        began = time.monotonic_ns()
        if not request.model:
            raise RequestError("model is required")
        model = self.resolve(request.model)
        if not request.messages and request.keep_alive == 0:
            await self.residency.unload(model)
            return Instant("unload")
        await _known(model)
        think = self._check(model, request.model, "chat", request.think, tools=bool(request.tools))
        lease, options, num_ctx = await self._lease(model, request.options, request.keep_alive)
        load_ns = time.monotonic_ns() - began
        try:
            if not request.messages:
                lease.release()
                return Instant("load")
            images = 0
            for message in request.messages:
                images += len(message.images)
            self._check_images(model, images > 0, request.debug_render_only)
            messages = history(request, model)
            if lease.engine.facts.takes_messages:
                chat = _unrendered(request, chat_of(messages, request.tools, think))
                return await self._run(_Job.of(request, options, num_ctx, ""), lease, began, load_ns, chat=chat)
            prompting = await prepared(self.prompter, model, lease.engine.facts)
            rendering = Rendering(prompting, messages, request.tools, think)
            prompt, left_out = await fitted(
                self.apart, lease.engine, rendering, num_ctx, truncate=request.truncate is not False
            )
            if request.debug_render_only:
                lease.release()
                return Instant("render", prompt, images, dropped(left_out))
            job = _Job.of(request, options, num_ctx, prompt)
            return await self._run(
                job,
                lease,
                began,
                load_ns,
                parser=prompting.output_parser(prompt, think, request.tools),
                control=prompting.control(request.tools),
                constrain_after=prompting.answer_mark(think),
                dropped_messages=left_out,
            )
        except BaseException:
            lease.release()
            raise

    async def count_tokens(self, request: ChatRequest) -> int:
        """How many tokens the prompt of a chat would have, with nothing left out of it. Raises like `chat`."""
        reply = await self.chat(replace(request, debug_render_only=True, truncate=False))
        await reply.aclose()
        lease, _, _ = await self._lease(self.resolve(request.model), request.options, request.keep_alive)
        try:
            return len(await lease.engine.tokenize(reply.rendered))
        finally:
            lease.release()

    # -- embed ---------------------------------------------------------------------------------------------

    async def embed(self, request: EmbedRequest) -> Embedded:
        """POST /api/embed and /api/embeddings. Raises `VllamaError` for everything that has a status."""
        began = time.monotonic_ns()
        try:
            model = self.resolve(request.model)
        except ModelNotFound:
            if not request.model.strip() or looks_like_path(request.model):
                raise
            raise ModelNotFound(f"model {quote(request.model)} not found, try pulling it first") from None
        lease, _, num_ctx = await self._lease(model, request.options, request.keep_alive)
        load_ns = time.monotonic_ns() - began
        try:
            if not request.inputs:
                return Embedded()
            if not lease.engine.facts.can_embed:
                raise RequestError(UNSUPPORTED) if request.legacy else NotImplementedYet(UNSUPPORTED)
            vectors = await lease.engine.embed(embedding_of(request, model.params, num_ctx))
        except ServerError:
            if self._draining:
                raise BusyError(GOING_DOWN) from None
            raise
        finally:
            lease.release()
        if request.dimensions > 0:
            vectors = await asyncio.to_thread(shorten, vectors, request.dimensions)
        return Embedded(vectors, time.monotonic_ns() - began, load_ns)

    # -- shared steps --------------------------------------------------------------------------------------

    def _check(
        self,
        model: Model,
        asked: str,
        verb: str,
        think: Think | None,
        *,
        insert: bool = False,
        tools: bool = False,
    ) -> Think | None:
        """Capabilities in Ollama's order; returns the think setting to use."""
        skills = model.capabilities
        if "image" in skills:
            raise RequestError("image generation models are not currently supported")
        if "thinking" in skills:
            think = think if think is not None else Think(True)
        elif think is not None and think.enabled:
            raise RequestError(f'"{asked}" does not support thinking')
        if "completion" not in skills:
            raise RequestError(f'"{asked}" does not support {verb}')
        if insert and "insert" not in skills:
            raise RequestError(f"{model.name.full} does not support insert")
        if tools and "tools" not in skills:
            raise RequestError(f"{model.name.full} does not support tools")
        return think

    def _check_images(self, model: Model, images: bool, render_only: bool) -> None:
        if images and not render_only:
            can = "vision" in model.capabilities
            if can and model.remote is not None:
                return
            error = RequestError(
                "images are not supported by this engine yet" if can else "this model does not support images"
            )
            error.from_engine = True
            raise error

    async def _lease(
        self, model: Model, request_options: dict[str, Any], keep_alive: int | None
    ) -> tuple[Lease, Options, int]:
        if self._draining:
            raise BusyError(GOING_DOWN)
        options = merge_options(model.params, request_options)
        num_ctx = options.num_ctx or self.settings.context_length or DEFAULT_CONTEXT
        load = LoadOptions(
            num_ctx=num_ctx,
            num_parallel=self.settings.num_parallel,
            num_batch=min(options.num_batch, MAX_BATCH),
            num_gpu=options.num_gpu,
            main_gpu=options.main_gpu,
            # More threads than cores only wait for each other.
            num_thread=min(max(0, options.num_thread) or self.settings.num_thread, self._cores),
            use_mmap=options.use_mmap,
            flash_attention=self.settings.flash_attention,
            kv_cache_type=self.settings.kv_cache_type,
            extra=self._extra(model),
        )
        lease = await self.residency.acquire(model, load, keep_alive)
        train = lease.engine.facts.train_ctx
        if train and num_ctx > train:
            if options.num_ctx:
                log.warning("num_ctx %d: %s was trained for %d, using that", num_ctx, model.name.shortest, train)
            num_ctx = train
        return lease, options, num_ctx

    def _extra(self, model: Model) -> tuple[tuple[str, str], ...]:
        """What only some engines read."""
        extra: tuple[tuple[str, str], ...] = (("debug", "1"),) if self.settings.debug > 1 else ()
        if self.settings.prefill_chunk:
            extra += (("prefill_chunk", str(self.settings.prefill_chunk)),)
        if self.settings.mlock:
            extra += (("mlock", "1"),)
        if self.settings.prefix_cache_dir:
            folder, most = self.settings.prefix_cache_dir, self.settings.prefix_cache_size
            extra += (("prefix_dir", folder), ("prefix_bytes", str(most)))
        if model.directory is not None:
            words = (self.settings.vllm_args, own_settings(model, self.settings).vllm_args)
            extra += (("vllm_args", " ".join(filter(None, words))),)
        return extra

    async def _run(
        self,
        job: _Job,
        lease: Lease,
        began: int,
        load_ns: int,
        *,
        parser: OutputParser | None = None,
        control: tuple[str, ...] = (),
        quiet: bool = True,
        want_ids: bool = False,
        context: ContextMaker | None = None,
        constrain_after: str = "",
        dropped_messages: int = 0,
        chat: Chat | None = None,
    ) -> Reply:
        options = job.options
        try:
            constraint = await constraint_of(self.apart, job.format)
            if constraint is not None and constrain_after:
                constraint = replace(constraint, after=constrain_after)
            generation = Generation(
                prompt=job.prompt if chat is None else None,
                chat=chat,
                sampling=options.to_sampling(),
                num_ctx=job.num_ctx,
                num_predict=options.num_predict,
                num_keep=options.num_keep,
                stop=options.stop,
                truncate=job.truncate and job.shift,
                shift=job.shift,
                top_logprobs=job.top_logprobs,
                constraint=constraint,
                want_ids=want_ids,
                control=control,
            )
            events = lease.engine.generate(generation)
            first = await anext(events)
        except StopAsyncIteration:
            raise ServerError("the engine ended without an answer") from None
        except VllamaError as error:
            failure = error
            lease.account("error")
            if isinstance(error, PromptTooLong) and job.truncate:
                failure = PromptTooLong(TOO_LONG, prompt_tokens=error.prompt_tokens, context=error.context)
            elif isinstance(error, ServerError) and self._draining:
                failure = BusyError(GOING_DOWN)
            failure.from_engine = True
            raise failure from None
        started = first if isinstance(first, Started) else Started(0, 0)
        if started.truncated_tokens:
            log.warning("the prompt was cut by %d tokens to fit num_ctx %d", started.truncated_tokens, job.num_ctx)
        return Answer(
            events,
            lease,
            began=began,
            load_ns=load_ns,
            parser=parser,
            quiet=quiet,
            context=context,
            draining=lambda: self._draining,
            prompt_tokens=started.prompt_tokens,
            cached_tokens=started.cached_tokens,
            truncated_tokens=started.truncated_tokens,
            dropped_messages=dropped_messages,
        )


def _unrendered(request: GenerateRequest | ChatRequest, chat: Chat) -> Chat:
    """The conversation for a server that renders it. Raises `RequestError` for what needs the prompt's text or ids."""
    if request.debug_render_only:
        raise RequestError("this model's server renders prompts itself: they cannot be shown or counted")
    if isinstance(request, GenerateRequest) and request.context:
        raise RequestError("this model's server takes no context: send the conversation to /api/chat")
    return chat


async def _known(model: Model) -> None:
    """See to it that the model's capabilities are known, which are read from its templates."""
    if known_capabilities(model) is None and long_template(model):
        await asyncio.to_thread(lambda: model.capabilities)


async def _context(engine: Engine, prompt: str, finished: Finished, cut: bool, text: str) -> tuple[int, ...]:
    """Ids of the whole prompt and of the answer as the client saw it.

    The ids that the engine has are these only where neither the prompt was cut nor the answer ended by itself: an
    end mark or a stop string is among its ids and not in the text. Otherwise the tokenizer is asked.
    """
    if not cut and finished.reason == "length":
        return finished.prompt_ids + finished.output_ids
    return tuple(await engine.tokenize(prompt + text))
