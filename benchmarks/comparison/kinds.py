"""The kinds of models that are compared, each with its rows, its peers, and how jiffy takes part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jiffy.families import ENCODER_DECODERS, ENCODERS, family_of_source

from .plan import Row


@dataclass(frozen=True)
class Peer:
    """environment, model: where a folder has them; {name} is that of the model's folder, {model} its path."""

    name: str
    driver: str
    environment: str
    model: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """unit: of its rates. driver, variants: of jiffy, the latter if nobody names others."""

    unit: str
    rows: tuple[Row, ...]
    driver: str
    variants: tuple[str, ...]
    peers: tuple[Peer, ...]


LANGUAGE = Kind(
    "tokens/s",
    (
        Row("prefill-128", {"prefill": "prefill 128"}, batch=1, prompt=128, new=1, repeats=5, warmups=1),
        Row("prefill-512", {"prefill": "prefill 512"}, batch=1, prompt=512, new=1, repeats=3, warmups=1),
        Row("decode", {"decode": "decode"}, batch=1, prompt=4, new=129, repeats=2),
        Row("context-2048", {"prefill": "prefill 2048", "decode": "decode at 2048"}, 1, prompt=2048, new=65, repeats=2),
        Row("batch-8", {"decode": "batch 8"}, batch=8, prompt=32, new=33, repeats=2),
        Row("batch-32", {"decode": "batch 32"}, batch=32, prompt=32, new=33, repeats=2),
    ),
    "jiffy",
    ("i4", "i4/i8", "i4g128:prefill"),
    (
        Peer("llama.cpp Q4_0", "llamacpp", "venv-llamacpp", "{name}-Q4_0.gguf"),
        Peer("llama.cpp Q8_0", "llamacpp", "venv-llamacpp", "{name}-Q8_0.gguf"),
        Peer("OpenVINO int4", "openvino", "venv-ov", "ov/{name}-int4"),
    ),
)
LANGUAGE_FILE = replace(
    LANGUAGE, variants=("file",), peers=(Peer("llama.cpp", "llamacpp", "venv-llamacpp", "{model}"),)
)


def _encoder_row(prompt: int, batch: int, repeats: int) -> Row:
    name = {"encode": f"{prompt} tokens, batch {batch}"}
    return Row(f"{prompt}-batch-{batch}", name, batch=batch, prompt=prompt, new=0, repeats=repeats, warmups=1)


ENCODER = Kind(
    "sentences/s",
    (
        _encoder_row(32, 1, repeats=40),
        _encoder_row(32, 32, repeats=5),
        _encoder_row(128, 1, repeats=20),
        _encoder_row(128, 32, repeats=2),
        Row(
            "ragged",
            {"encode": "5 to 200 tokens, batch 32"},
            batch=32,
            prompt=200,
            new=0,
            repeats=2,
            warmups=1,
            shortest=5,
        ),
    ),
    "jiffy_encoder",
    ("i8", "bf16", "f32"),
    (
        Peer("OpenVINO int8", "openvino_encoder", "venv-ov", "ov/{name}-int8"),
        Peer("OpenVINO fp32", "openvino_encoder", "venv-ov", "ov/{name}-fp32"),
        Peer("ONNX Runtime int8", "onnxruntime_encoder", "venv-ort", "ort/{name}/model_int8.onnx"),
        Peer("ONNX Runtime f32", "onnxruntime_encoder", "venv-ort", "ort/{name}/model.onnx"),
        Peer("CTranslate2 int8", "ctranslate2_encoder", "venv-ct2", "ct2/{name}-int8", ("--compute", "int8")),
        Peer("CTranslate2 f32", "ctranslate2_encoder", "venv-ct2", "ct2/{name}-int8", ("--compute", "float32")),
    ),
)


def _translation_row(batch: int, beams: int) -> Row:
    how = "greedy" if beams == 1 else f"{beams} beams"
    name = f"batch-{batch}-{how.replace(' ', '-')}"
    return Row(name, {"translate": f"batch {batch}, {how}"}, batch, 25, new=32, repeats=4, warmups=1, beams=beams)


TRANSLATION = Kind(
    "target tokens/s",
    tuple(_translation_row(batch, beams) for batch in (1, 16) for beams in (1, 4)),
    "jiffy_translator",
    ("i8",),
    (
        Peer("CTranslate2 int8", "ctranslate2_translator", "venv-ct2", "ct2/{name}-int8", ("--compute", "int8")),
        Peer("CTranslate2 f32", "ctranslate2_translator", "venv-ct2", "ct2/{name}-int8", ("--compute", "float32")),
    ),
)


def kind_of(model: Path) -> Kind:
    """By the model's config.json. Raises jiffy.FormatError for a bad one."""
    if model.suffix == ".gguf":
        return LANGUAGE_FILE
    family = family_of_source(model)
    return ENCODER if family is ENCODERS else TRANSLATION if family is ENCODER_DECODERS else LANGUAGE
