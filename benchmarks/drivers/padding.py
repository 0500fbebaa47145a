"""A batch as engines want it that compute sequences of one length."""

from __future__ import annotations

import numpy as np
from suite import Prompts


def padded(prompts: Prompts) -> dict[str, np.ndarray]:
    """What a model of BERT's kind is given by name, int64 [batch, longest]."""
    lengths = np.array([len(prompt) for prompt in prompts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(prompts)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
