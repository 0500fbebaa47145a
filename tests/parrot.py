"""A llama that says a known text for ever: each token has one successor, whatever came before it.

Its embeddings are unit vectors, its attention and MLP add nothing, and its head has, for each token, a large weight at
the unit of the token before it. So what a request must answer is known without computing anything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tiny
from jiffy.checkpoint import open_checkpoint

TEXT = "abé😀cd€ xyz."  # two, three and four bytes in a character
_DIM = 272  # units for 259 tokens, and a width with padding in none of the formats
_SURE = 100.0  # the successor's logit is about _SURE * sqrt(_DIM), all others are 0


def write_parrot(folder: Path, text: str, **arguments: object) -> list[int]:
    """A Hugging Face folder of a model that repeats `text`, whose bytes are all different; behind <|pad|> it says
    <|eos|>. Returns the text's token ids, one a byte."""
    sizes = {"dim": _DIM, "ffn_dim": 16, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 16}
    tiny.write_hf_llama(folder, **sizes, tied=False, **arguments)
    ids = tiny.tokenizer(259).encode(text).ids
    assert len(set(ids)) == len(ids) == len(text.encode()), "every byte has one successor"
    successors = {**dict(zip(ids, ids[1:] + ids[:1], strict=True)), tiny.PAD: tiny.EOS, tiny.EOS: ids[0]}
    head = np.zeros((259, _DIM), np.float32)
    for token, following in successors.items():
        head[following, token] += _SURE
    overwrite(folder, "embed_tokens.weight", np.eye(259, _DIM))
    overwrite(folder, "lm_head.weight", head)
    for name in ("input_layernorm", "post_attention_layernorm"):
        overwrite(folder, f"layers.0.{name}.weight", np.ones(_DIM))
    overwrite(folder, "norm.weight", np.ones(_DIM))
    overwrite(folder, "layers.0.self_attn.o_proj.weight", np.zeros((_DIM, 16)))
    overwrite(folder, "layers.0.mlp.down_proj.weight", np.zeros((_DIM, 16)))
    return ids


def after(start: str, n_chars: int) -> str:
    """What the parrot of TEXT says behind `start`."""
    return (TEXT * 100).split(start, 1)[1][:n_chars]


def overwrite(model: Path, name: str, values: np.ndarray) -> None:
    """Puts other values into a float32 tensor of a model on disk."""
    entry = open_checkpoint(model).tensors[name]
    assert entry.dtype == "f32" and entry.shape == values.shape, entry
    with entry.path.open("r+b") as file:
        file.seek(entry.offset)
        file.write(values.astype("<f4").tobytes())
