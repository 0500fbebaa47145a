"""Tiny encoders with random weights, made and written by transformers, with a WordPiece tokenizer of our own."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
VOCAB = len(SPECIALS) + 2 * len(LETTERS)
TASKS = {
    "": "Model",
    "mask": "ForMaskedLM",
    "sequence": "ForSequenceClassification",
    "token": "ForTokenClassification",
    "question": "ForQuestionAnswering",
}
LABELS = {0: "sport", 1: "news", 2: "tech"}

_COMMON = {"vocab_size": VOCAB, "max_position_embeddings": 514}
_BERT = {
    **_COMMON,
    **{"hidden_size": 36, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 50},
    **{"type_vocab_size": 2, "layer_norm_eps": 1e-7},
}
# name -> (class before the task's name, config, what differs from _BERT)
CONFIGS = {
    "bert": ("Bert", transformers.BertConfig, _BERT),
    "bert_tanh": ("Bert", transformers.BertConfig, {**_BERT, "hidden_act": "gelu_new"}),
    "distilbert": (
        "DistilBert",
        transformers.DistilBertConfig,
        {**_COMMON, "dim": 36, "n_layers": 3, "n_heads": 3, "hidden_dim": 50},
    ),
    "roberta": ("Roberta", transformers.RobertaConfig, {**_BERT, "type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", transformers.XLMRobertaConfig, {**_BERT, "type_vocab_size": 1, "pad_token_id": 1}),
    "electra": ("Electra", transformers.ElectraConfig, {**_BERT, "embedding_size": 20}),
    "electra_wide": ("Electra", transformers.ElectraConfig, {**_BERT, "embedding_size": 36}),
    "albert": ("Albert", transformers.AlbertConfig, {**_BERT, "embedding_size": 20}),
    "albert_groups": (
        "Albert",
        transformers.AlbertConfig,
        {**_BERT, "embedding_size": 36, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "mpnet": ("MPNet", transformers.MPNetConfig, {**_BERT, "pad_token_id": 1}),
    "modernbert": (
        "ModernBert",
        transformers.ModernBertConfig,
        {
            **_COMMON,
            **{"hidden_size": 36, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 50},
            **{"local_attention": 20, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "norm_eps": 1e-6},
        },
    ),
    "modernbert_biases": (
        "ModernBert",
        transformers.ModernBertConfig,
        {
            **_COMMON,
            **{"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50},
            **{"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
            **{"decoder_bias": False, "classifier_pooling": "mean", "pad_token_id": 0, "cls_token_id": 2},
            **{"sep_token_id": 3},
        },
    ),
}


def write(folder: Path, name: str, task: str = "", seed: int = 0, **overrides) -> torch.nn.Module:
    """Writes a folder as transformers does, with a tokenizer.json; returns the model, whose every weight is random."""
    prefix, config_class, options = CONFIGS[name]
    given = {**options, "bos_token_id": 2, "eos_token_id": 3, **overrides}
    if task in ("sequence", "token"):
        given.setdefault("id2label", LABELS)
    config = config_class(**given, attn_implementation="eager")
    model = getattr(transformers, prefix + TASKS[task])(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.ndim == 1 and float(parameter.abs().max()) == 1.0 else 0.0  # of a norm
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"mask_token": "[MASK]", "cls_token": "[CLS]", "model_max_length": int(1e30)})
    )
    return model


def write_modules(folder: Path, normalise: bool, pooling: dict[str, object]) -> None:
    """Writes what sentence-transformers writes of pooling."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalise else [])]
    listed = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def tokenizer():
    """A WordPiece `tokenizers.Tokenizer` that spells words in letters, with BERT's frame around a text or a pair."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokens = [*SPECIALS, *LETTERS, *("##" + letter for letter in LETTERS)]
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(SPECIALS)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.enable_truncation(5)  # files say so of the lengths that their models were trained with
    made.enable_padding(length=20)
    return made
