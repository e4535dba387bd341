"""KV memory, and the decoding into it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from typing import Any

from vllama.engines.llama.bindings.library import LoadError, lib
from vllama.engines.llama.bindings.model import Model
from vllama.engines.llama.bindings.rows import Rows
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.shelf import Saved

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


class Outcome(Enum):
    """What a decode came to."""

    OK = "ok"
    NO_ROOM = "no room"
    ABORTED = "aborted"
    FATAL = "fatal"


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
        self._rows = Rows(batch)

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
