"""Weights and vocabulary."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from vllama.engines.llama.bindings.library import LoadError, Log, lib, offloads
from vllama.engines.llama.openings import Openings


class Model:
    """A loaded GGUF file. Raises `LoadError`. `on_gpu`: how much of it lies on a GPU, from 0 to 1."""

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
        self.on_gpu = 1.0 if offloads(gpu_layers) else 0.0
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
