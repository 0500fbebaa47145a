#!/usr/bin/env python3
"""What weight formats and types of the KV cache cost in quality: quality.py TEXT [--weights i4 i8] [--kv int8]

Reads the first tokens of a text file and compares the next-token distributions with those of f32 weights and f32 keys
and values: perplexity, Kullback-Leibler divergence in nats (mean over positions, and its standard error), share of
positions whose likeliest token is another. The f32 run is the model as its file holds it, dequantised.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import jiffy

WEIGHTS = ["f32", "bf16", "i8", "i8g32", "i4", "i4a", "i4g64", "i4g128"]
KV = ["f32", "bf16", "int8"]


@dataclass(frozen=True)
class Reading:
    """What a model makes of a text: log probabilities float32 [n_tokens - 1, vocab_size] behind each prefix."""

    log_probabilities: np.ndarray
    next_ids: np.ndarray

    @classmethod
    def of(cls, model: jiffy.Model, ids: list[int]) -> Reading:
        logits = model.logits(ids)[:-1]
        highest = logits.max(axis=1, keepdims=True)
        sums = np.exp(logits - highest).sum(axis=1, keepdims=True, dtype=np.float64)
        return cls((logits - highest - np.log(sums)).astype(np.float32), np.array(ids[1:]))

    @property
    def perplexity(self) -> float:
        chosen = self.log_probabilities[np.arange(len(self.next_ids)), self.next_ids]
        return float(np.exp(-chosen.mean(dtype=np.float64)))

    def divergence_from(self, exact: Reading) -> np.ndarray:
        """Kullback-Leibler divergence at each position, float64."""
        difference = exact.log_probabilities - self.log_probabilities
        return (np.exp(exact.log_probabilities) * difference).sum(axis=1, dtype=np.float64)

    def changed_from(self, exact: Reading) -> float:
        """The share of positions with another likeliest token."""
        return float((self.log_probabilities.argmax(axis=1) != exact.log_probabilities.argmax(axis=1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--weights", nargs="+", default=WEIGHTS)
    parser.add_argument("--head", help="format of the vocabulary matrix; as the weights if not given")
    parser.add_argument("--kv", nargs="+", default=KV)
    arguments = parser.parse_args()
    text = arguments.text.open(encoding="utf-8", newline="").read()

    def read(weights: str, kv_dtype: str, head: str | None = None) -> tuple[jiffy.Model, Reading]:
        formats = {"weights": weights, "head": head, "kv_dtype": kv_dtype}
        model = jiffy.load(arguments.model, **formats, context=arguments.tokens, cache=False)
        return model, Reading.of(model, model.tokenizer.encode(text)[: arguments.tokens])

    exact = read("f32", "f32")[1]
    print("| weights | KV | packed | perplexity | KL divergence | other top-1 |\n| --- | --- | --- | --- | --- | --- |")
    for weights in arguments.weights:
        for kv_dtype in arguments.kv:
            model, reading = read(weights, kv_dtype, arguments.head)
            kl = reading.divergence_from(exact)
            error = kl.std() / np.sqrt(len(kl))
            print(
                f"| {weights} | {kv_dtype} | {model.info()['packed_bytes'] / 1e6:.0f} MB | {reading.perplexity:.3f} "
                f"| {kl.mean():.5f} ± {error:.5f} | {reading.changed_from(exact):.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
