"""The model that everybody gets first reads as well as its weights allow, and answers."""

from __future__ import annotations

import numpy as np
import pytest

import jiffy

# transformers, float32, the same dequantised weights and the same 1024 token ids.
REFERENCE = 21.8924
N_TOKENS = 1024
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def perplexity(model: jiffy.Model, text: str) -> float:
    """Of the first N_TOKENS tokens, each but the first predicted from all before it."""
    ids = model.tokenizer.encode(text)[:N_TOKENS]
    assert len(ids) == N_TOKENS
    logits = model.logits(ids)[:-1].astype(np.float64)
    highest = logits.max(axis=1)
    log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return float(np.exp(np.mean(log_sums - logits[np.arange(N_TOKENS - 1), ids[1:]])))


def test_perplexity(smollm2_path, botchan_text):
    """What the file holds, with quantised activations, is as good as float32 to 0.5 %."""
    options = {"context": 2048, "progress": False}
    exact = perplexity(jiffy.load(smollm2_path, weights="f32", **options), botchan_text)
    assert exact == pytest.approx(REFERENCE, rel=1e-3)
    assert perplexity(jiffy.load(smollm2_path, **options), botchan_text) == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("weights", [None, "f32", "bf16", "i8"])
def test_the_capital_of_france(smollm2_path, weights):
    model = jiffy.load(smollm2_path, weights=weights, context=512, progress=False)
    answer = model.generate(QUESTION, parse_special=True, max_tokens=40)
    assert "Paris" in answer.text, answer.text
    assert answer.finish_reason == "stop", "the answer doesn't end"
    assert "<|" not in answer.text
