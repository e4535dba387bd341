"""The only file that touches ctypes and llama_cpp. Imported in the worker process, never in the gateway.

`Model` (weights and vocabulary), `Context` (KV memory, decode), `Chain` (sampler) and `Grammar` own C objects and free
them in `close()`. Nothing here knows requests or frames. Sizes are tokens unless a docstring says bytes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

from vllama.engines.llama.openings import Openings
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.sampling import Stage
from vllama.engines.llama.shelf import Saved


def _low_level() -> Any:
    """llama_cpp.llama_cpp without running the package's __init__, which imports a chat stack and numpy (0.2 s)."""
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None:
            raise ImportError("llama-cpp-python is not installed")
        sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("llama_cpp.llama_cpp")


lib: Any = _low_level()

_LOG_LEVELS = {1: "debug", 2: "info", 3: "warning", 4: "error"}
_KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}


SPARE_BUFFERS = 4
"""Buffers of discarded copies that are kept for the next ones."""


def _build() -> str:
    """The release of the library, as far as it is known."""
    # Only a cache on disk asks; 40 modules would make every start later.
    from importlib import metadata

    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "unknown"


def die_with_parent() -> None:
    """Linux: the kernel kills this process when the thread that started it ends. A watcher in here could not do so
    while the process is stopped."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


class LoadError(Exception):
    """The model or its context could not be made; the text is llama.cpp's reason."""


class Log:
    """llama.cpp's log: problems go to stderr and are kept, the rest is dropped unless `debug`."""

    def __init__(self, debug: bool) -> None:
        self.problems: deque[str] = deque(maxlen=20)
        self._debug = debug
        self._level = 0
        self._callback = lib.llama_log_callback(self._write)
        lib.llama_log_set(self._callback, None)

    def _write(self, level: int, text: bytes, _: object) -> None:
        if level == 5:  # continues the line before
            level = self._level
        self._level = level
        if level < 3 and not self._debug:
            return
        line = text.decode("utf-8", "replace").rstrip("\n")
        if not line.strip(". "):
            return
        if level == 4:
            self.problems.append(line)
        sys.stderr.write(f"llama.cpp {_LOG_LEVELS.get(level, '')}: {line}\n")

    def reason(self) -> str:
        """The first problem noted: the later ones only say that the caller failed too."""
        for line in self.problems:
            return line.split(": ", 1)[-1] if ": " in line else line
        return "llama.cpp gave no reason"


def offloads(gpu_layers: int) -> bool:
    """Whether this build would put layers on a GPU."""
    return bool(lib.llama_supports_gpu_offload()) and gpu_layers != 0


class Model:
    """A loaded GGUF file. Raises `LoadError`."""

    def __init__(
        self,
        path: str,
        *,
        gpu_layers: int = -1,
        main_gpu: int = -1,
        mmap: bool | None = None,
        mlock: bool = False,
        adapters: Sequence[str] = (),
        progress: Callable[[float], None] | None = None,
        log: Log | None = None,
    ) -> None:
        self.log = log or Log(False)
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if main_gpu >= 0:
            params.main_gpu = main_gpu
        if mlock:
            params.load_mode = lib.LLAMA_LOAD_MODE_MLOCK if mmap is False else lib.LLAMA_LOAD_MODE_MMAP_MLOCK
        elif mmap is not None:
            params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if mmap else lib.LLAMA_LOAD_MODE_NONE

        def report(done: float, _: object) -> bool:
            if progress is not None:
                progress(done)
            return True

        callback = lib.llama_progress_callback(report)
        params.progress_callback = callback
        self.pointer = lib.llama_model_load_from_file(path.encode(), params)
        if not self.pointer:
            raise LoadError(self.log.reason())
        self.vocab = lib.llama_model_get_vocab(self.pointer)
        self.adapters = []
        for adapter in adapters:
            loaded = lib.llama_adapter_lora_init(self.pointer, adapter.encode())
            if not loaded:
                raise LoadError(f"adapter {adapter}: {self.log.reason()}")
            self.adapters.append(loaded)
        self.vocab_size: int = lib.llama_vocab_n_tokens(self.vocab)
        self.train_ctx: int = lib.llama_model_n_ctx_train(self.pointer)
        self.size: int = lib.llama_model_size(self.pointer)
        self.recurrent: bool = lib.llama_model_is_recurrent(self.pointer) or lib.llama_model_is_hybrid(self.pointer)
        self.window: int = lib.llama_model_n_swa(self.pointer)
        self.has_encoder: bool = lib.llama_model_has_encoder(self.pointer)
        self.has_decoder: bool = lib.llama_model_has_decoder(self.pointer)
        self.offloads: bool = offloads(gpu_layers)
        self.bos: int = lib.llama_vocab_bos(self.vocab)
        self.eos: int = lib.llama_vocab_eos(self.vocab)
        self.adds_bos: bool = lib.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}
        self._eog: dict[int, bool] = {}
        self._longest = -1
        self._openings: Openings | None = None
        self._buffer = ctypes.create_string_buffer(512)

    def longest(self) -> int:
        """The most bytes that one token stands for; 0 where the tokenizer may drop text. Looks at all tokens once."""
        if self._longest < 0:
            longest = 0
            if lib.llama_vocab_type(self.vocab) in (lib.LLAMA_VOCAB_TYPE_SPM, lib.LLAMA_VOCAB_TYPE_BPE):
                for token in range(self.vocab_size):
                    # Without room the function says how much it wants.
                    size = lib.llama_token_to_piece(self.vocab, token, None, 0, 0, True)
                    longest = max(longest, -size)
            self._longest = longest
        return self._longest

    def openings(self) -> Openings:
        """Its tokens by their first characters, as grammars read them. Looks at all tokens once; from any thread."""
        found = self._openings
        if found is None:
            room, buffer = 512, ctypes.create_string_buffer(512)
            pieces = []
            for token in range(self.vocab_size):
                count = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, True)
                # Without room for it: its beginning is not known, and it is always asked about.
                pieces.append(buffer.raw[:count] if count > 0 else b"")
            ends = (token for token in range(self.vocab_size) if lib.llama_vocab_is_eog(self.vocab, token))
            found = self._openings = Openings(pieces, frozenset(ends))
        return found

    @property
    def pools(self) -> bool:
        """Whether the file says how its output becomes one vector: then it makes embeddings, and no text."""
        architecture = self._metadata("general.architecture")
        return self._metadata(f"{architecture}.pooling_type") is not None

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        if lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, 256) < 0:
            return None
        return buffer.value.decode("utf-8", "replace")

    def description(self) -> str:
        """Like "llama 135M Q4_1"."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.pointer, buffer, 256)
        return buffer.value.decode("utf-8", "replace")

    def cell_bytes(self, kv_type: str) -> int:
        """About how many bytes one KV cell takes in all layers together."""
        heads = max(1, lib.llama_model_n_head(self.pointer))
        width = lib.llama_model_n_embd(self.pointer) // heads * lib.llama_model_n_head_kv(self.pointer)
        bits = {"f32": 32, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5}.get(kv_type, 16)
        return int(2 * width * lib.llama_model_n_layer(self.pointer) * bits / 8)

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; special tokens in the text are parsed. BOS is never doubled."""
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, True)
        if count < 0:
            room = -count
            ids = (ctypes.c_int32 * room)()
            count = lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, True)
        tokens: list[int] = ids[:count]
        # Chat templates often write the BOS token themselves.
        if add_special and self.adds_bos and tokens[:2] == [self.bos, self.bos]:
            del tokens[0]
        return tokens

    def piece(self, token: int) -> bytes:
        """The token's bytes; nothing for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.render(token, special=False)
        return piece

    def control(self, texts: Sequence[str]) -> dict[int, bytes]:
        """The control tokens among `texts`: id to bytes. A text that is several tokens, or none, is left out."""
        found = {}
        for text in texts:
            ids = self.tokenize(text, add_special=False)
            if len(ids) == 1 and self.render(ids[0], special=True) == text.encode():
                found[ids[0]] = text.encode()
        return found

    def render(self, token: int, *, special: bool) -> bytes:
        """The token's bytes, control tokens as their text when `special`."""
        buffer = self._buffer
        count = lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = lib.llama_token_to_piece(self.vocab, token, buffer, -count, 0, special)
        return buffer.raw[:count]

    def spell(self, token: int) -> str:
        """A token as text, control tokens too; "" for a token that the model does not have."""
        return self.render(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text with special tokens; invalid UTF-8 becomes U+FFFD."""
        count = len(tokens)
        ids = (ctypes.c_int32 * max(1, count))(*tokens)
        room = max(64, 8 * count)
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = lib.llama_detokenize(self.vocab, ids, count, buffer, room, False, True)
            if size >= 0:
                return buffer.raw[:size].decode("utf-8", "replace")
            room = -size

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        known = self._eog.get(token)
        if known is None:
            known = self._eog[token] = bool(lib.llama_vocab_is_eog(self.vocab, token))
        return known

    def close(self) -> None:
        """Free the weights."""
        if self.pointer:
            lib.llama_model_free(self.pointer)
            self.pointer = None


class Outcome(Enum):
    """What a decode came to."""

    OK = "ok"
    NO_ROOM = "no room"
    ABORTED = "aborted"
    FATAL = "fatal"


class _Rows:
    """A `llama_batch` whose arrays are filled by slices: one sequence for each row."""

    __slots__ = ("_ids", "_keep", "_positions", "_tokens", "batch", "outputs")

    def __init__(self, size: int) -> None:
        self._tokens: Any = (ctypes.c_int32 * size)()
        self._positions: Any = (ctypes.c_int32 * size)()
        self._ids: Any = (ctypes.c_int32 * size)()
        self.outputs: Any = (ctypes.c_int8 * size)()
        one = (ctypes.c_int32 * size)(*([1] * size))
        base = ctypes.addressof(self._ids)
        pointer = ctypes.POINTER(ctypes.c_int32)
        ids = (pointer * size)(*(ctypes.cast(base + 4 * i, pointer) for i in range(size)))
        self._keep = (one, ids)
        self.batch = lib.llama_batch(
            0,
            ctypes.cast(self._tokens, pointer),
            None,
            ctypes.cast(self._positions, pointer),
            ctypes.cast(one, pointer),
            ctypes.cast(ids, ctypes.POINTER(pointer)),
            ctypes.cast(self.outputs, ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, tokens: list[int], positions: list[int], sequences: list[int]) -> None:
        """The rows of the next decode; which of them are outputs is set in `outputs`."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._ids[:count] = sequences
        self.batch.n_tokens = count


class Context:
    """The KV memory of all sequences, and the batch that is decoded into it. It is a `kv.Memory`.

    `split`: a memory of `cells` for each of `slots` sequences; otherwise one of `cells` that they share. `affordable`
    says whether a new one of so many bytes may be made beside what there is.
    """

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        slots: int,
        batch: int,
        threads: int,
        flash_attention: bool | None,
        kv_type: str,
        split: bool = False,
        affordable: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.model = model
        self.threads = threads
        self.slots = slots
        self.split = split
        self._affordable = affordable
        self._cell_bytes = model.cell_bytes(kv_type)
        self._batch_size = batch
        self._flash = {None: -1, False: 0, True: 1}[flash_attention]
        if kv_type not in _KV_TYPES:
            raise LoadError(f"there is no KV cache type {kv_type!r}; there are {', '.join(_KV_TYPES)}")
        self._kv_type = _KV_TYPES[kv_type]
        self._spare: list[Any] = []
        self._create(cells)
        self._rows = _Rows(batch)

    def _create(self, cells: int) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = cells * self.slots if self.split else cells
        params.n_batch = self._batch_size
        params.n_ubatch = self._batch_size
        params.n_seq_max = self.slots
        params.n_threads = self.threads
        params.n_threads_batch = self.threads
        params.flash_attn_type = self._flash
        params.type_k = self._kv_type
        params.type_v = self._kv_type
        params.kv_unified = not self.split
        params.no_perf = True
        pointer = lib.llama_init_from_model(self.model.pointer, params)
        if not pointer:
            raise LoadError(self.model.log.reason())
        self.pointer = pointer
        self.memory = lib.llama_get_memory(pointer)
        # Padded by the library; all of it can be used.
        self.cells = int(lib.llama_n_ctx_seq(pointer) if self.split else lib.llama_n_ctx(pointer))
        adapters = self.model.adapters
        if adapters:
            array = (ctypes.c_void_p * len(adapters))(*adapters)
            scales = (ctypes.c_float * len(adapters))(*([1.0] * len(adapters)))
            lib.llama_set_adapters_lora(pointer, array, len(adapters), scales)

    @property
    def capacity(self) -> int:
        """Cells in all."""
        return self.cells * (self.slots if self.split else 1)

    @property
    def can_shift(self) -> bool:
        """Whether positions can be moved."""
        return bool(self.memory) and bool(lib.llama_memory_can_shift(self.memory))

    def decode(self, plan: Plan) -> Outcome:
        """Run one step. After OK the logits of `plan.outputs` can be sampled by their batch index."""
        count = len(plan.tokens)
        rows = self._rows
        rows.fill(plan.tokens, plan.positions, plan.slots)
        outputs = rows.outputs
        if len(plan.outputs) == count:
            ctypes.memset(outputs, 1, count)
        else:
            ctypes.memset(outputs, 0, count)
            for index, _ in plan.outputs:
                outputs[index] = 1
        result = lib.llama_decode(self.pointer, rows.batch)
        if result == 0:
            return Outcome.OK
        if result == 1:
            return Outcome.NO_ROOM
        return Outcome.ABORTED if result == 2 else Outcome.FATAL

    def logits(self, index: int) -> Any:
        """Address of the logits of a batch row: `vocab_size` floats, valid until the next decode."""
        return lib.llama_get_logits_ith(self.pointer, index)

    def row(self, index: int) -> Any:
        """The logits of a batch row as a float32 array of `vocab_size`, valid until the next decode."""
        import numpy as np

        logits = lib.llama_get_logits_ith(self.pointer, index)
        raw: Any = (ctypes.c_float * self.model.vocab_size).from_address(ctypes.addressof(logits.contents))
        row: Any = np.frombuffer(raw, np.float32)
        return row

    def set_threads(self, count: int) -> None:
        """Use so many threads from the next decode on."""
        self.threads = count
        lib.llama_set_n_threads(self.pointer, count, count)

    # kv.Memory

    def remove(self, slot: int, start: int, end: int) -> bool:
        """See `Memory`."""
        return bool(lib.llama_memory_seq_rm(self.memory, slot, start, end))

    def copy(self, source: int, target: int, end: int) -> bool:
        """See `Memory`. Sharing costs nothing; between memories of their own everything is copied, then cut."""
        if not self.split:
            lib.llama_memory_seq_cp(self.memory, source, target, 0, end)
            return True
        state = self.save(source)
        if state is None:
            return False
        done = self.restore(target, state)
        self.discard(state)
        if done and not self.remove(target, end, -1):
            self.remove(target, 0, -1)
            return False
        return done

    def shift(self, slot: int, start: int, end: int, delta: int) -> None:
        """See `Memory`."""
        lib.llama_memory_seq_add(self.memory, slot, start, end, delta)

    def grow(self, cells: int) -> int:
        """A larger context with the same content: sequences keep the cells that they share. See `Memory`."""
        old, size = self.pointer, int(lib.llama_state_get_size(self.pointer))
        if not self._affordable(self._size(self.slots, cells) + size):
            return self.cells
        before = (self.memory, self.cells)
        try:
            state = (ctypes.c_uint8 * size)()
            written = lib.llama_state_get_data(old, state, size)
            self._create(cells)
        except (LoadError, MemoryError):
            self.memory, self.cells = before
            return self.cells
        if written != size or lib.llama_state_set_data(self.pointer, state, size) != size:
            lib.llama_free(self.pointer)
            self.pointer = old
            self.memory, self.cells = before
            return self.cells
        lib.llama_free(old)
        return self.cells

    def reshape(self, slots: int, cells: int) -> bool:
        """See `Memory`."""
        if not self._affordable(self._size(slots, cells) - self._size(self.slots, self.cells)):
            return False
        before = self.slots, self.cells
        self.close()
        self.slots = slots
        try:
            self._create(cells)
        except LoadError:
            self.slots = before[0]
            # It was there a moment ago.
            self._create(before[1])
            return False
        return True

    def _size(self, slots: int, cells: int) -> int:
        return (slots if self.split else 1) * cells * self._cell_bytes

    def save(self, slot: int) -> Any:
        """See `Memory`. (buffer, bytes used)."""
        size = int(lib.llama_state_seq_get_size(self.pointer, slot))
        if not size:
            return None
        buffer = self._take_spare(size)
        try:
            buffer = buffer or (ctypes.c_uint8 * size)()
        except MemoryError:
            return None
        if lib.llama_state_seq_get_data(self.pointer, buffer, size, slot) != size:
            return None
        return buffer, size

    def restore(self, slot: int, state: Any) -> bool:
        """See `Memory`."""
        if isinstance(state, Saved):
            content = state.read()
            if content is None:
                return False
            buffer, size = (ctypes.c_uint8 * len(content)).from_buffer(content), len(content)
        else:
            buffer, size = state
        if lib.llama_state_seq_set_data(self.pointer, buffer, size, slot):
            return True
        lib.llama_memory_seq_rm(self.memory, slot, -1, -1)
        return False

    def discard(self, state: Any) -> None:
        """See `Memory`. What is on disk stays there."""
        if isinstance(state, Saved):
            return
        self._spare.append(state[0])
        del self._spare[:-SPARE_BUFFERS]

    @staticmethod
    def raw(state: Any) -> memoryview | None:
        """The bytes of a saved copy in host memory; None for one that is on disk."""
        return None if isinstance(state, Saved) else memoryview(state[0])[: state[1]]

    def identity(self) -> str:
        """What a saved copy depends on beside the model: it fits only where all of this is the same."""
        shape = self.slots if self.split else 0
        build = lib.llama_print_system_info().decode("utf-8", "replace")
        version = f"{lib.LLAMA_STATE_SEQ_VERSION} {lib.LLAMA_SESSION_VERSION}"
        return f"{_build()} {build} {version} kv {self._kv_type} streams {shape} flash {self._flash}"

    def _take_spare(self, size: int) -> Any:
        # Fresh memory costs several times the copy itself in page faults.
        fits = [buffer for buffer in self._spare if size <= len(buffer) <= 2 * size]
        if not fits:
            return None
        buffer = min(fits, key=len)
        self._spare.remove(buffer)
        return buffer

    def close(self) -> None:
        """Free the KV memory."""
        if self.pointer:
            lib.llama_free(self.pointer)
            self.pointer = None


class EmbeddingContext:
    """Pools whole inputs to vectors; nothing is kept between two packs. For a model that says how it pools.

    `tokens` is the largest pack, `inputs` how many inputs it may hold. Raises `LoadError`.
    """

    def __init__(self, model: Model, *, tokens: int, inputs: int, threads: int, flash_attention: bool | None) -> None:
        self.tokens = tokens
        self.inputs = inputs
        self.threads = threads
        params = lib.llama_context_default_params()
        # The library rounds contexts up and asserts that an encoder sees a pack in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = inputs
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = {None: -1, False: 0, True: 1}[flash_attention]
        params.embeddings = True
        params.kv_unified = True
        params.no_perf = True
        self.pointer = lib.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise LoadError(model.log.reason())
        self._memory = lib.llama_get_memory(self.pointer)
        self.width: int = lib.llama_model_n_embd_out(model.pointer)
        self._rows = _Rows(tokens)
        ctypes.memset(self._rows.outputs, 1, tokens)

    @property
    def pooling(self) -> int:
        """llama.cpp's number: 0 none, 1 mean, 2 first token, 3 last token, 4 a ranking score."""
        return int(lib.llama_pooling_type(self.pointer))

    def pool(self, pack: Sequence[Sequence[int]]) -> list[Any] | None:
        """One float32 array of `width` for each input, as the model pools it. None: it could not be evaluated."""
        import numpy as np

        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for slot, ids in enumerate(pack):
            tokens += ids
            positions += range(len(ids))
            slots += [slot] * len(ids)
        self._rows.fill(tokens, positions, slots)
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        if lib.llama_decode(self.pointer, self._rows.batch):
            return None
        rows = [lib.llama_get_embeddings_seq(self.pointer, slot) for slot in range(len(pack))]
        if not all(rows):
            return None
        return [np.ctypeslib.as_array(row, (self.width,)).copy() for row in rows]

    def set_threads(self, count: int) -> None:
        """Use so many threads from the next pack on."""
        self.threads = count
        lib.llama_set_n_threads(self.pointer, count, count)

    def close(self) -> None:
        """Free its buffers; twice is fine."""
        if self.pointer:
            lib.llama_free(self.pointer)
            self.pointer = None


class Chain:
    """One request's sampler chain. `shortlist` largest logits are enough for it (0: it must see all)."""

    __slots__ = ("_greedy", "_shortlist", "pointer")

    def __init__(self, model: Model, stages: Sequence[Stage], shortlist: int = 0) -> None:
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self.pointer = lib.llama_sampler_chain_init(params)
        self._shortlist = shortlist if model.vocab_size >= GROUPS * shortlist else 0
        self._greedy = [name for name, _ in stages] == ["greedy"]
        for name, values in stages:
            lib.llama_sampler_chain_add(self.pointer, _stage(model, name, values))

    def sample(self, context: Context, index: int) -> int:
        """Choose a token for a batch row and remember it."""
        if self._shortlist:
            token = self.choose(context.row(index))
            if token >= 0:
                return token
        chosen: int = lib.llama_sampler_sample(self.pointer, context.pointer, index)
        return chosen

    def choose(self, row: Any) -> int:
        """Choose from logits, a float32 array, by a shortlist, and remember it; -1 when that cannot be done."""
        token = self.propose(row)
        if token >= 0 and not self._greedy:
            lib.llama_sampler_accept(self.pointer, token)
        return token

    def propose(self, row: Any) -> int:
        """Like `choose`, but nothing is remembered.

        The library would fill and sort a table of the whole vocabulary, which costs several times as much.
        """
        if not self._shortlist:
            return -1
        if self._greedy:
            best = int(row.argmax())
            return best if row[best] < math.inf else -1
        ids = largest(row, self._shortlist)
        if not self._shortlist <= len(ids) <= len(_candidates.table):
            return -1
        return _candidates.apply(self.pointer, ids, row[ids])

    def accept(self, token: int) -> None:
        """Count a token for the penalties that was not sampled here."""
        lib.llama_sampler_accept(self.pointer, token)

    def close(self) -> None:
        """Free it; twice is fine."""
        if self.pointer:
            lib.llama_sampler_free(self.pointer)
            self.pointer = None


GROUPS = 16
"""A shortlist is made when the vocabulary is at least so many times as long."""


def largest(row: Any, count: int) -> Any:
    """Ids of the `count` largest logits, ascending, and of a few more: all those not below a bound.

    The bound is the `count`-th largest of the maxima of disjoint groups, so at least `count` logits reach it.
    """
    import numpy as np

    groups = max(4 * count, 256)
    depth = len(row) // groups
    if depth < 2:
        return np.arange(len(row))
    peaks = row[: groups * depth].reshape(depth, groups).max(axis=0)
    bound = np.partition(peaks, groups - count)[groups - count]
    return np.flatnonzero(row >= bound)


class _Candidates:
    """The table that the C samplers work on, made once."""

    def __init__(self, size: int) -> None:
        self.table = (lib.llama_token_data * size)()
        self._view: Any = None
        self._array = lib.llama_token_data_array(self.table, size, -1, False)
        self._pointer = ctypes.byref(self._array)

    def apply(self, chain: Any, ids: Any, logits: Any) -> int:
        """Let the chain choose among these; -1 when it chose none."""
        array = self._fill(chain, ids, logits)
        return int(array.data[array.selected].id) if array.selected >= 0 else -1

    def passes(self, grammar: Any, ids: Any, logits: Any) -> Any:
        """Which of `ids` the grammar allows; none whose logit says that it cannot come."""
        self._fill(grammar, ids, logits)
        return self._view["logit"][: len(ids)] > -math.inf

    def _fill(self, sampler: Any, ids: Any, logits: Any) -> Any:
        if self._view is None:
            import numpy as np

            self._view = np.frombuffer(self.table, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        size = len(ids)
        view = self._view[:size]
        view["id"] = ids
        view["logit"] = logits
        view["p"] = 0
        array = self._array
        # A sampler may have replaced the pointer.
        array.data = self.table
        array.size = size
        array.selected = -1
        array.sorted = False
        lib.llama_sampler_apply(sampler, self._pointer)
        return array


_candidates = _Candidates(4096)


@lru_cache(maxsize=1)
def _every(size: int) -> _Candidates:
    """A table for a whole vocabulary."""
    return _Candidates(size)


def _stage(model: Model, name: str, values: tuple[Any, ...]) -> Any:
    if name == "logit_bias":
        biases = (lib.llama_logit_bias * len(values))(*values)
        return lib.llama_sampler_init_logit_bias(model.vocab_size, len(values), biases)
    if name == "penalties":
        return lib.llama_sampler_init_penalties(model.vocab_size, *values)
    if name in ("top_p", "min_p", "typical"):
        values = (*values, 1)
    return getattr(lib, f"llama_sampler_init_{name}")(*values)


class Grammar:
    """A GBNF grammar that follows one generation. Raises ValueError when the text is no grammar.

    Choosing freely and asking the grammar about that one token is cheap. Only when it objects is it asked which
    tokens it allows. One that it does not allow must never be accepted: the library aborts.
    """

    __slots__ = ("_openings", "pointer")

    def __init__(self, model: Model, gbnf: str) -> None:
        # An empty text would give a sampler that allows everything.
        self.pointer = lib.llama_sampler_init_grammar(model.vocab, gbnf.encode(), b"root") if gbnf.strip() else None
        if not self.pointer:
            raise ValueError("failed to parse grammar")
        self._openings = model.openings()

    def sample(self, chain: Chain, context: Context, index: int) -> int | None:
        """Choose a token that the grammar allows, and remember it. None when it allows none."""
        token = self.choose(chain, context.row(index))
        if token is not None:
            lib.llama_sampler_accept(self.pointer, token)
            chain.accept(token)
        return token

    def choose(self, chain: Chain, row: Any) -> int | None:
        """Choose from logits, a float32 array; nothing is remembered. None when the grammar allows no token."""
        import numpy as np

        token = chain.propose(row)
        if token < 0:
            token = _every(len(row)).apply(chain.pointer, np.arange(len(row), dtype=np.int32), row)
        if token >= 0 and row[token] > -math.inf and self._allows(token):
            return token
        table = _every(len(row))
        ids = self._openings.allowed(lambda ids: table.passes(self.pointer, ids, row[ids]))
        if not len(ids):
            return None
        # Samplers take ties in this order.
        ids.sort()
        token = table.apply(chain.pointer, ids, row[ids])
        return token if token >= 0 and row[token] > -math.inf else None

    def _allows(self, token: int) -> bool:
        one = (lib.llama_token_data * 1)((token, 1.0, 0.0))
        array = lib.llama_token_data_array(one, 1, -1, False)
        lib.llama_sampler_apply(self.pointer, ctypes.byref(array))
        return bool(one[0].logit != -math.inf)

    def close(self) -> None:
        """Free it; twice is fine."""
        if self.pointer:
            lib.llama_sampler_free(self.pointer)
            self.pointer = None


def top_logprobs(logits: Any, size: int, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of `token` under the raw logits, and the `count` likeliest tokens with theirs."""
    import numpy as np

    row = np.ctypeslib.as_array(logits, (size,))
    peak = float(row.max())
    norm = peak + math.log(float(np.exp(row - peak, dtype=np.float64).sum()))
    best: list[tuple[int, float]] = []
    if count > 0:
        count = min(count, size)
        ids = np.argpartition(row, size - count)[size - count :]
        ids = ids[np.argsort(-row[ids], kind="stable")]
        best = [(int(i), float(row[i]) - norm) for i in ids]
    return float(row[token]) - norm, best
