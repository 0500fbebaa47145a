"""The reference of parity tests: transformers in float32, with its plain ("eager") attention.

Float32, because transformers computes rope's angles so whatever a model's type is: float64 would bring it no nearer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

import tiny

SHARE = 1e-4  # of the largest |logit| of a position: some hundred times the rounding of float32 through a few layers

torch.set_num_threads(1)  # these models are so small that PyTorch's threads would mostly wait for each other


def random_ids(n: int, vocab_size: int = 259) -> list[int]:
    return np.random.default_rng(n).integers(0, vocab_size, n).tolist()


def reference(folder: Path | None, **options: object) -> transformers.PreTrainedModel:
    """The model of a folder, or a llama of `config` and `state_dict`; every tensor of it must have a place."""
    options |= {"dtype": torch.float32, "attn_implementation": "eager", "local_files_only": True}
    family = transformers.LlamaForCausalLM if folder is None else transformers.AutoModelForCausalLM
    model, report = family.from_pretrained(folder, **options, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return model.eval()


def reference_logits(model: transformers.PreTrainedModel, ids: list[int]) -> np.ndarray:
    """float32 [n_tokens, vocab_size], in one forward pass."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def greedy(model: transformers.PreTrainedModel, ids: list[int], n: int) -> list[int]:
    """The n likeliest next tokens."""
    prompt = torch.tensor([ids])
    asked = {"max_new_tokens": n, "do_sample": False, "eos_token_id": None, "pad_token_id": tiny.PAD}
    asked["attention_mask"] = torch.ones_like(prompt)  # else <|pad|> in the prompt is taken for padding
    tokens = model.generate(prompt, **asked)[0, len(ids) :].tolist()
    assert len(tokens) == n
    return tokens
