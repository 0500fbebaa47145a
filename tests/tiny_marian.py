"""Tiny models in Marian's own files: random weights, a vocabulary as sentencepiece would write it, and the arithmetic
in float64, written the slow way."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

DIM, HEADS, FFN, LAYERS = 32, 4, 48, (2, 2)
PIECES = [("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
PIECES += [
    (text, -2.0 - i / 7, 1) for i, text in enumerate("▁ ▁a ▁b ab abc a b c d e f g h ▁the the . , ! ? 1 2 é".split())
]
YML = """bert-train-type-embeddings: true
dec-cell: ssru
dec-depth: {1}
dim-vocabs:
  - {vocab}
enc-depth: {0}
tied-embeddings-all: true
transformer-decoder-autoreg: {recurrent}
transformer-dim-ffn: {ffn}
transformer-ffn-activation: relu
transformer-heads: {heads}
transformer-postprocess: dan
transformer-postprocess-emb: d
transformer-postprocess-top: ""
transformer-preprocess: ""
type: transformer
"""


def write_marian(
    folder: Path, *, seed: int = 0, int8: bool = False, recurrent: bool = True, never: list[int] | None = None
) -> dict[str, np.ndarray]:
    """Writes model.bin and vocab.spm; returns the weights as the file has them, matrices as [in, out]. never: tokens
    that it doesn't say."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(np.random.default_rng(seed), recurrent)
    weights["decoder_ff_logit_out_b"][0, never or []] = -1e30
    tensors = {}
    for name, value in weights.items():
        matrix = value.ndim == 2 and min(value.shape) > 1
        if int8 and matrix:
            multiplier = np.float32(127 / np.abs(value).max())
            codes = np.round(value * multiplier).astype(np.int8)
            stored = codes if name == "Wemb" else np.ascontiguousarray(codes.T)
            tensors[name] = (0x4101, value.shape, stored.tobytes() + multiplier.tobytes() + bytes(252))
            weights[name] = (codes / multiplier).astype(np.float32)
        else:
            tensors[name] = (0x404, value.shape, value.tobytes())
    mode = "rnn" if recurrent else "self-attention"
    yml = YML.format(*LAYERS, vocab=len(PIECES), ffn=FFN, heads=HEADS, recurrent=mode).encode() + b"\0"
    tensors["special:model.yml"] = (0x101, (len(yml),), yml)
    (folder / "model.bin").write_bytes(marian_file(tensors))
    (folder / "vocab.spm").write_bytes(spm_file(PIECES))
    return weights


def marian_file(tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    names = [name.encode() + b"\0" for name in tensors]
    raw = struct.pack("<QQ", 1, len(tensors))
    for name, (kind, shape, data) in zip(names, tensors.values(), strict=True):
        raw += struct.pack("<4Q", len(name), kind, len(shape), len(data))
    raw += b"".join(names)
    raw += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, shape, _ in tensors.values())
    padding = -(len(raw) + 8) % 256
    raw += struct.pack("<Q", padding) + bytes(padding)
    return raw + b"".join(data for *_, data in tensors.values())


def spm_file(pieces: list[tuple[str, float, int]], model_type: int = 1, normalizer: bytes = b"") -> bytes:
    def field(number: int, raw: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(raw)) + raw

    out = b""
    for text, score, kind in pieces:
        body = field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + (b"" if kind == 1 else bytes((24, kind)))
        out += field(1, body)
    return out + field(2, bytes((24, model_type))) + field(3, normalizer)


def logits(weights: dict[str, np.ndarray], source: list[int], target: list[int | None]) -> np.ndarray:
    """float64 [n_target, vocabulary]: what follows each prefix of target; None is what a decoder begins with."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = _embedded(w, source)
    for i in range(1, LAYERS[0] + 1):
        x = _attend(w, f"encoder_l{i}_self", x, x, causal=False)
        x = _ffn(w, f"encoder_l{i}_ffn", x)
    y = _embedded(w, target)
    for i in range(1, LAYERS[1] + 1):
        if f"decoder_l{i}_rnn_W" in w:
            y = _ssru(w, f"decoder_l{i}_rnn", y)
        else:
            y = _attend(w, f"decoder_l{i}_self", y, y, causal=True)
        y = _attend(w, f"decoder_l{i}_context", y, x, causal=False)
        y = _ffn(w, f"decoder_l{i}_ffn", y)
    return y @ w["Wemb"].T + w["decoder_ff_logit_out_b"]


def _embedded(w, ids) -> np.ndarray:
    rows = np.array([np.zeros(DIM) if i is None else w["Wemb"][i] * DIM**0.5 for i in ids])
    half = DIM // 2
    for position, row in enumerate(rows):
        for i in range(half):
            angle = position * 10000.0 ** (-i / (half - 1))
            row[i] += np.sin(angle)
            row[half + i] += np.cos(angle)
    return rows


def _attend(w, name: str, x, memory, causal: bool) -> np.ndarray:
    q, k, v = (a @ w[f"{name}_W{p}"] + w[f"{name}_b{p}"] for p, a in (("q", x), ("k", memory), ("v", memory)))
    out = np.zeros_like(q)
    size = DIM // HEADS
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for t in range(len(q)):
            seen = slice(0, t + 1 if causal else len(k))
            scores = k[seen, part] @ q[t, part] / size**0.5
            p = np.exp(scores - scores.max())
            out[t, part] = p / p.sum() @ v[seen, part]
    return _norm(w, f"{name}_Wo", x + out @ w[f"{name}_Wo"] + w[f"{name}_bo"])


def _ssru(w, name: str, x) -> np.ndarray:
    cell, out = np.zeros(DIM), np.zeros_like(x)
    for t, row in enumerate(x):
        forget = 1 / (1 + np.exp(-(row @ w[f"{name}_Wf"] + w[f"{name}_bf"][0])))
        cell = forget * cell + (1 - forget) * (row @ w[f"{name}_W"])
        out[t] = np.maximum(cell, 0)
    return _norm(w, f"{name}_ffn", x + out)


def _ffn(w, name: str, x) -> np.ndarray:
    hidden = np.maximum(x @ w[f"{name}_W1"] + w[f"{name}_b1"], 0)
    return _norm(w, f"{name}_ffn", x + hidden @ w[f"{name}_W2"] + w[f"{name}_b2"])


def _norm(w, name: str, x) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    scale = (centred**2).mean(axis=1, keepdims=True) + 1e-9
    return centred / np.sqrt(scale) * w[f"{name}_ln_scale"] + w[f"{name}_ln_bias"]


def _weights(rng: np.random.Generator, recurrent: bool) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {"Wemb": rng.normal(0, 0.3, (len(PIECES), DIM))}
    out["decoder_ff_logit_out_b"] = rng.normal(0, 0.3, (1, len(PIECES)))

    def matrix(name: str, bias: str | None, n_in: int, n_out: int) -> None:
        out[name] = rng.normal(0, 1.5 * n_in**-0.5, (n_in, n_out))
        if bias:
            out[bias] = rng.normal(0, 0.3, (1, n_out))

    def norm(name: str) -> None:
        out[f"{name}_ln_scale"], out[f"{name}_ln_bias"] = rng.normal(1, 0.1, (1, DIM)), rng.normal(0, 0.1, (1, DIM))

    def attention(name: str) -> None:
        for p in "qkvo":
            matrix(f"{name}_W{p}", f"{name}_b{p}", DIM, DIM)
        norm(f"{name}_Wo")

    for side, n_layers in zip(("encoder", "decoder"), LAYERS, strict=True):
        for i in range(1, n_layers + 1):
            at = f"{side}_l{i}"
            if side == "decoder" and recurrent:
                matrix(f"{at}_rnn_W", None, DIM, DIM)
                matrix(f"{at}_rnn_Wf", f"{at}_rnn_bf", DIM, DIM)
                norm(f"{at}_rnn_ffn")
            else:
                attention(f"{at}_self")
            if side == "decoder":
                attention(f"{at}_context")
            matrix(f"{at}_ffn_W1", f"{at}_ffn_b1", DIM, FFN)
            matrix(f"{at}_ffn_W2", f"{at}_ffn_b2", FFN, DIM)
            norm(f"{at}_ffn_ffn")
    return {name: value.astype(np.float32) for name, value in out.items()}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))
