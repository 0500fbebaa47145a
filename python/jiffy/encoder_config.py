"""The numbers that shape an encoder, read from Hugging Face's config.json and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .config import MAX_DIM, MAX_LAYERS, MAX_VOCAB
from .errors import FormatError, Unsupported, shown
from .fields import Fields
from .files import read_json
from .rope_config import MAX_CONTEXT
from .sentence_config import PLAIN, Embedding

# What transformers assumes where config.json has no such key.
_BERT = {
    **{"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    **{"intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2},
    **{"layer_norm_eps": 1e-12, "pad_token_id": 0},
}
_DEFAULTS: dict[str, dict[str, object]] = {
    "bert": _BERT,
    "distilbert": {
        **{"vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "activation": "gelu"},
        **{"max_position_embeddings": 512},
    },
    "roberta": {**_BERT, "vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": {**_BERT, "pad_token_id": 1},
    "electra": {
        **_BERT,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "albert": {
        **_BERT,
        **{"vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_hidden_groups": 1},
        **{"num_attention_heads": 64, "intermediate_size": 16384, "inner_group_num": 1, "hidden_act": "gelu_new"},
    },
    "mpnet": {**_BERT, "vocab_size": 30527, "pad_token_id": 1, "relative_attention_num_buckets": 32},
    "modernbert": {
        **{"vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22},
        **{"num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5},
        **{"local_attention": 128, "global_attn_every_n_layers": 3, "classifier_activation": "gelu"},
    },
}
ENCODERS = tuple(_DEFAULTS)

_ACTIVATIONS = {
    **{"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
    **{"relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh"},
}
# config.json's "architectures" ends so -> what its head is for
_TASKS = {
    "Model": "",
    "ForMaskedLM": "mask",
    "ForPreTraining": "mask",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "question",
}
_MAX_LABELS = 1 << 16


@dataclass(frozen=True)
class Head:
    """What a checkpoint has behind its encoder. task: "sequence", "token", "question", "mask", or "" for nothing.

    activation: behind its dense layer; "" where there is no such layer. norm: whether a LayerNorm follows it.
    pooling: of "sequence", how a sequence becomes one row. independent: labels exclude nothing (multi-label).
    """

    task: str = ""
    activation: str = ""
    norm: bool = False
    pooling: str = "first"
    labels: tuple[str, ...] = ()
    independent: bool = False


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder's shape. Every count is positive and bounded; head_dim is even.

    embedding_dim: of the tables; a projection makes rows of dim of them where there is one. n_types: rows of the table
    of types; 0 for none. n_positions, position_offset: rows of the table of positions (0: rope), and how many of them
    stand before the first position's. weights_of: for each layer the number of its set of weights, n_inner of which
    make a group of albert's. tied: the head's vocabulary matrix is the table. windows: for each layer how many
    positions a token sees on a side, its own among them; 0 for all. rope_thetas: for each layer, empty without rope.
    n_buckets: of a bias by relative position; 0 for none. biases: which of "attention", "mlp", "norm", "head" and
    "decoder" have them. embedding: how hidden rows become an embedding where nobody says otherwise.
    """

    model_type: str
    dim: int
    embedding_dim: int
    ffn_dim: int
    n_layers: int
    n_heads: int
    vocab_size: int
    n_types: int
    n_positions: int
    position_offset: int
    context_length: int
    norm_eps: float
    activation: str
    weights_of: tuple[int, ...]
    head: Head
    tied: bool = True
    n_inner: int = 1
    windows: tuple[int, ...] = ()
    rope_thetas: tuple[float, ...] = ()
    n_buckets: int = 0
    biases: frozenset[str] = frozenset(("attention", "mlp", "norm", "head"))
    embedding: Embedding = PLAIN

    @property
    def usual_context(self) -> int:
        return min(self.embedding.max_tokens or self.context_length, self.context_length)

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def projected(self) -> bool:
        """Whether rows of the tables are projected, as albert always does."""
        return self.model_type == "albert" or self.embedding_dim != self.dim

    @classmethod
    def from_hf(cls, folder: Path) -> EncoderConfig:
        """From config.json, with the defaults of transformers. Raises FormatError, Unsupported."""
        values = read_json(folder / "config.json")
        model_type = Fields(values, "config.json").text("model_type")
        if model_type not in ENCODERS:
            raise Unsupported(
                "config.json model_type", expected="one of " + ", ".join(ENCODERS), found=shown(model_type)
            )
        given = {name: value for name, value in values.items() if value is not None}
        fields = Fields({**_DEFAULTS[model_type], **given}, "config.json")
        fields.only("quantization_config", (None,))
        fields.only("is_decoder", (False,), default=False)
        reader = {"distilbert": _distilbert, "modernbert": _modernbert}.get(model_type, _bert)
        return reader(fields, model_type)


def is_encoder(path: Path) -> bool:
    """Whether a path is the folder of a model that `EncoderConfig` speaks of. Raises FormatError for a bad config."""
    if not (path / "config.json").is_file():
        return False
    return read_json(path / "config.json").get("model_type") in ENCODERS


def _bert(fields: Fields, model_type: str) -> EncoderConfig:
    fields.only("position_embedding_type", ("absolute",), default="absolute")
    dim = fields.integer("hidden_size", MAX_DIM)
    n_layers, weights_of = _layers(fields)
    n_positions = fields.integer("max_position_embeddings", MAX_CONTEXT)
    counts_from_padding = model_type in ("roberta", "xlm-roberta", "mpnet")
    offset = fields.integer("pad_token_id", MAX_CONTEXT, low=0) + 1 if counts_from_padding else 0
    if offset >= n_positions:
        raise fields.error("max_position_embeddings", f"more than {offset}", n_positions)
    return EncoderConfig(
        model_type=model_type,
        dim=dim,
        embedding_dim=fields.integer("embedding_size", MAX_DIM, default=dim)
        if model_type in ("electra", "albert")
        else dim,
        ffn_dim=fields.integer("intermediate_size", MAX_DIM),
        n_layers=n_layers,
        n_heads=_n_heads(fields, "num_attention_heads", dim),
        vocab_size=fields.integer("vocab_size", MAX_VOCAB),
        n_types=0 if model_type == "mpnet" else fields.integer("type_vocab_size", MAX_VOCAB, low=0),
        n_positions=n_positions,
        position_offset=offset,
        context_length=n_positions - offset,
        norm_eps=fields.number("layer_norm_eps", 0.0, 1.0),
        activation=_activation(fields, "hidden_act"),
        weights_of=weights_of,
        head=_bert_head(fields, model_type),
        tied=fields.boolean("tie_word_embeddings", default=True),
        n_inner=fields.integer("inner_group_num", MAX_LAYERS, default=1),
        windows=(0,) * n_layers,
        n_buckets=fields.integer("relative_attention_num_buckets", 1 << 12) if model_type == "mpnet" else 0,
    )


def _distilbert(fields: Fields, model_type: str) -> EncoderConfig:
    dim = fields.integer("dim", MAX_DIM)
    n_layers = fields.integer("n_layers", MAX_LAYERS)
    n_positions = fields.integer("max_position_embeddings", MAX_CONTEXT)
    activation = _activation(fields, "activation")
    return EncoderConfig(
        model_type=model_type,
        dim=dim,
        embedding_dim=dim,
        ffn_dim=fields.integer("hidden_dim", MAX_DIM),
        n_layers=n_layers,
        n_heads=_n_heads(fields, "n_heads", dim),
        vocab_size=fields.integer("vocab_size", MAX_VOCAB),
        n_types=0,
        n_positions=n_positions,
        position_offset=0,
        context_length=n_positions,
        norm_eps=1e-12,
        activation=activation,
        weights_of=tuple(range(n_layers)),
        head=_head(fields, sequence="relu", mask=activation),
        tied=fields.boolean("tie_word_embeddings", default=True),
        windows=(0,) * n_layers,
    )


def _modernbert(fields: Fields, model_type: str) -> EncoderConfig:
    dim = fields.integer("hidden_size", MAX_DIM)
    n_layers = fields.integer("num_hidden_layers", MAX_LAYERS)
    local = _local_layers(fields, n_layers)
    window = fields.integer("local_attention", MAX_CONTEXT, low=2) // 2 + 1
    thetas = _modernbert_thetas(fields)
    act = _activation(fields, "classifier_activation")
    pooling = fields.text("classifier_pooling", default="cls")
    if pooling not in ("cls", "mean"):
        raise fields.error("classifier_pooling", "cls or mean", pooling)
    head = _head(fields, sequence=act, token=act, question=act, mask=act, norm=True)
    n_positions = fields.integer("max_position_embeddings", MAX_CONTEXT)
    flags = {"attention": "attention_bias", "mlp": "mlp_bias", "norm": "norm_bias", "head": "classifier_bias"}
    biases = {name for name, key in flags.items() if fields.boolean(key, default=False)}
    if fields.boolean("decoder_bias", default=True):
        biases.add("decoder")
    return EncoderConfig(
        model_type=model_type,
        dim=dim,
        embedding_dim=dim,
        ffn_dim=fields.integer("intermediate_size", MAX_DIM),
        n_layers=n_layers,
        n_heads=_n_heads(fields, "num_attention_heads", dim),
        vocab_size=fields.integer("vocab_size", MAX_VOCAB),
        n_types=0,
        n_positions=0,
        position_offset=0,
        context_length=n_positions,
        norm_eps=fields.number("norm_eps", 0.0, 1.0),
        activation=_activation(fields, "hidden_activation"),
        weights_of=tuple(range(n_layers)),
        head=_pooled(head, "first" if pooling == "cls" else "mean"),
        tied=fields.boolean("tie_word_embeddings", default=True),
        windows=tuple(window if one else 0 for one in local),
        rope_thetas=tuple(thetas[1] if one else thetas[0] for one in local),
        biases=frozenset(biases),
    )


def _layers(fields: Fields) -> tuple[int, tuple[int, ...]]:
    """How many layers there are, and which set of weights each has: albert's groups of layers share theirs."""
    n_layers = fields.integer("num_hidden_layers", MAX_LAYERS)
    n_groups = fields.integer("num_hidden_groups", MAX_LAYERS, default=n_layers)
    inner = fields.integer("inner_group_num", MAX_LAYERS, default=1)
    if n_groups > n_layers:
        raise fields.error("num_hidden_groups", f"at most the {n_layers} layers", n_groups)
    if n_layers * inner > MAX_LAYERS:
        raise fields.error("inner_group_num", f"at most {MAX_LAYERS} layers in all", inner)
    groups = (int(layer / (n_layers / n_groups)) for layer in range(n_layers))  # as transformers rounds
    sets = tuple(group * inner + i for group in groups for i in range(inner))
    return len(sets), sets


def _local_layers(fields: Fields, n_layers: int) -> list[bool]:
    types = fields.get("layer_types")
    if types is None:
        every = fields.integer("global_attn_every_n_layers", MAX_LAYERS)
        return [layer % every != 0 for layer in range(n_layers)]
    if not isinstance(types, list) or len(types) != n_layers:
        raise fields.error("layer_types", f"a list of {n_layers}, the number of layers", types)
    for one in types:
        if one not in ("full_attention", "sliding_attention"):
            raise fields.error("layer_types", '"full_attention" or "sliding_attention"', one)
    return [one == "sliding_attention" for one in types]


def _modernbert_thetas(fields: Fields) -> tuple[float, float]:
    """Of global and of local layers: in "rope_parameters", or, in older files, in keys of their own."""
    fields.only("rope_scaling", (None,))
    given = fields.inner("rope_parameters")
    thetas = []
    for kind, key, default in (
        ("full_attention", "global_rope_theta", 160_000.0),
        ("sliding_attention", "local_rope_theta", 10_000.0),
    ):
        own = given.inner(kind)
        own.only("rope_type", ("default",), default="default")
        older = fields.number(key, 0.0, 1e12, default=default)
        thetas.append(own.number("rope_theta", 0.0, 1e12, default=older))
    return thetas[0], thetas[1]


def _n_heads(fields: Fields, key: str, dim: int) -> int:
    n_heads = fields.integer(key, MAX_DIM)
    if dim % n_heads or dim // n_heads % 2:
        raise fields.error(key, f"heads of an even width, of {dim} in all", n_heads)
    return n_heads


def _activation(fields: Fields, key: str) -> str:
    name = fields.text(key)
    if name not in _ACTIVATIONS:
        raise Unsupported(fields.place(key), expected="one of " + ", ".join(_ACTIVATIONS), found=shown(name))
    return _ACTIVATIONS[name]


def _bert_head(fields: Fields, model_type: str) -> Head:
    hidden = _activation(fields, "hidden_act")
    fixed = model_type in ("roberta", "xlm-roberta", "mpnet", "electra")
    return _head(fields, sequence="gelu" if model_type == "electra" else "tanh", mask="gelu" if fixed else hidden)


def _head(fields: Fields, norm: bool = False, **activations: str) -> Head:
    """activations: by task, of the dense layer that its head has."""
    task = _task(fields)
    activation = activations.get(task, "")
    if task == "question":
        labels: tuple[str, ...] = ("start", "end")
    else:
        labels = _labels(fields) if task in ("sequence", "token") else ()
    problem = fields.text("problem_type", default="")
    return Head(
        task=task,
        activation=activation,
        norm=bool(activation) and (norm or task == "mask"),
        labels=labels,
        independent=problem == "multi_label_classification",
    )


def _pooled(head: Head, pooling: str) -> Head:
    return Head(head.task, head.activation, head.norm, pooling, head.labels, head.independent)


def _task(fields: Fields) -> str:
    names = fields.get("architectures")
    if names is None:
        return ""
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.error("architectures", "a list of one name", names)
    for suffix, task in _TASKS.items():
        if names[0].endswith(suffix):
            return "" if names[0] == "ElectraForPreTraining" else task  # a head of which nobody makes use
    expected = "a name that ends in " + ", ".join(_TASKS)
    raise Unsupported(fields.place("architectures"), expected=expected, found=shown(names[0]))


def _labels(fields: Fields) -> tuple[str, ...]:
    """id2label, whose keys are 0, 1, ... as texts; without it as many as num_labels says, which is 2 by default."""
    named = fields.get("id2label")
    if named is None:
        return tuple(f"LABEL_{i}" for i in range(fields.integer("num_labels", _MAX_LABELS, default=2)))
    n = len(named) if isinstance(named, dict) else 0
    if not 0 < n <= _MAX_LABELS or set(named) != {str(i) for i in range(n)}:
        raise fields.error("id2label", '{"0": ..., "1": ..., ...}', named)
    labels = tuple(named[str(i)] for i in range(n))
    for label in labels:
        if not isinstance(label, str):
            raise FormatError(fields.place("id2label"), expected="texts", found=shown(label))
    return labels
