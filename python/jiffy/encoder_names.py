"""Under which names checkpoints of encoders hold their tensors.

Ours are one set for all: embed_tokens, positions, token_types, embed_norm, embed_projection, relative_bias, final_norm;
layers.N.(q, k, v, o, attention_norm, up, gate, down, mlp_norm); head.(dense, norm, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Names:
    """prefix: of all tensors of the encoder, where it is part of a model with a head. body: by our name, one layer's
    parts with "N" for its number. heads: by task, our part of the head -> theirs, the first that there is."""

    prefix: str
    body: Mapping[str, str]
    heads: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


def _heads(sequence: dict[str, str], mask: dict[str, str], token: str = "classifier") -> dict[str, dict]:
    parts = {"sequence": sequence, "token": {"out": token}, "question": {"out": "qa_outputs"}, "mask": mask}
    return {task: {part: tuple(name.split()) for part, name in names.items()} for task, names in parts.items()}


_EMBEDDINGS = {
    "embed_tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
}
_MLP = {
    "layers.N.up": "encoder.layer.N.intermediate.dense",
    "layers.N.down": "encoder.layer.N.output.dense",
    "layers.N.mlp_norm": "encoder.layer.N.output.LayerNorm",
}
_BERT = {
    **_EMBEDDINGS,
    "embed_projection": "embeddings_project",  # electra
    "layers.N.q": "encoder.layer.N.attention.self.query",
    "layers.N.k": "encoder.layer.N.attention.self.key",
    "layers.N.v": "encoder.layer.N.attention.self.value",
    "layers.N.o": "encoder.layer.N.attention.output.dense",
    "layers.N.attention_norm": "encoder.layer.N.attention.output.LayerNorm",
    **_MLP,
}
_DISTILBERT = {
    **_EMBEDDINGS,
    **{f"layers.N.{part}": f"transformer.layer.N.attention.{part}_lin" for part in "qkv"},
    "layers.N.o": "transformer.layer.N.attention.out_lin",
    "layers.N.attention_norm": "transformer.layer.N.sa_layer_norm",
    "layers.N.up": "transformer.layer.N.ffn.lin1",
    "layers.N.down": "transformer.layer.N.ffn.lin2",
    "layers.N.mlp_norm": "transformer.layer.N.output_layer_norm",
}
_MPNET = {
    **_EMBEDDINGS,
    "relative_bias": "encoder.relative_attention_bias",
    **{f"layers.N.{part}": f"encoder.layer.N.attention.attn.{part}" for part in "qkvo"},
    "layers.N.attention_norm": "encoder.layer.N.attention.LayerNorm",
    **_MLP,
}
_ALBERT = {
    **_EMBEDDINGS,
    "embed_projection": "encoder.embedding_hidden_mapping_in",
    "layers.N.q": "encoder.albert_layer_groups.G.albert_layers.I.attention.query",
    "layers.N.k": "encoder.albert_layer_groups.G.albert_layers.I.attention.key",
    "layers.N.v": "encoder.albert_layer_groups.G.albert_layers.I.attention.value",
    "layers.N.o": "encoder.albert_layer_groups.G.albert_layers.I.attention.dense",
    "layers.N.attention_norm": "encoder.albert_layer_groups.G.albert_layers.I.attention.LayerNorm",
    "layers.N.up": "encoder.albert_layer_groups.G.albert_layers.I.ffn",
    "layers.N.down": "encoder.albert_layer_groups.G.albert_layers.I.ffn_output",
    "layers.N.mlp_norm": "encoder.albert_layer_groups.G.albert_layers.I.full_layer_layer_norm",
}
_MODERNBERT = {
    "embed_tokens": "embeddings.tok_embeddings",
    "embed_norm": "embeddings.norm",
    "final_norm": "final_norm",
    **{f"layers.N.{part}": "layers.N.attn.Wqkv" for part in "qkv"},
    "layers.N.o": "layers.N.attn.Wo",
    "layers.N.attention_norm": "layers.N.attn_norm",
    "layers.N.mlp_norm": "layers.N.mlp_norm",
    "layers.N.gate": "layers.N.mlp.Wi",
    "layers.N.up": "layers.N.mlp.Wi",
    "layers.N.down": "layers.N.mlp.Wo",
}
# A bias of the vocabulary stands beside the decoder, or in it.
_BERT_MASK = {
    "dense": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "out": "cls.predictions cls.predictions.decoder",
}
_LM_HEAD = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "out": "lm_head lm_head.decoder"}
_TWO_LAYERS = {"dense": "classifier.dense", "out": "classifier.out_proj"}
_MODERN = {"dense": "head.dense", "norm": "head.norm", "out": "classifier"}

NAMES: dict[str, Names] = {
    "bert": Names("bert", _BERT, _heads({"dense": "bert.pooler.dense", "out": "classifier"}, _BERT_MASK)),
    "distilbert": Names(
        "distilbert",
        _DISTILBERT,
        _heads(
            {"dense": "pre_classifier", "out": "classifier"},
            {"dense": "vocab_transform", "norm": "vocab_layer_norm", "out": "vocab_projector"},
        ),
    ),
    "roberta": Names("roberta", _BERT, _heads(_TWO_LAYERS, _LM_HEAD)),
    "xlm-roberta": Names("roberta", _BERT, _heads(_TWO_LAYERS, _LM_HEAD)),
    "electra": Names(
        "electra",
        _BERT,
        _heads(
            _TWO_LAYERS,
            {
                "dense": "generator_predictions.dense",
                "norm": "generator_predictions.LayerNorm",
                "out": "generator_lm_head",
            },
        ),
    ),
    "albert": Names(
        "albert",
        _ALBERT,
        _heads(
            {"dense": "albert.pooler", "out": "classifier"},
            {"dense": "predictions.dense", "norm": "predictions.LayerNorm", "out": "predictions predictions.decoder"},
        ),
    ),
    "mpnet": Names("mpnet", _MPNET, _heads(_TWO_LAYERS, _LM_HEAD)),
    "modernbert": Names(
        "model",
        _MODERNBERT,
        {task: {part: (name,) for part, name in _MODERN.items()} for task in ("sequence", "token", "question")}
        | {"mask": {"dense": ("head.dense",), "norm": ("head.norm",), "out": ("decoder",)}},
    ),
}
