"""Hostile packed files: an error that names the field, or a model that computes; never a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jiffy
from jiffy.errors import Error, FormatError, Unsupported
from packed_head import body_of, read_head, write_body, write_head

from .case import hf_folder

INT32 = 2**31 - 1
IDS = [1, 2, 3]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    below = tmp_path_factory.mktemp("good")
    out = below / "good.jiffy"
    jiffy.pack(hf_folder(below), out, weights="i4")
    return out


@pytest.fixture(scope="module")
def logits(good):
    return jiffy.load(good).logits(IDS)


@pytest.fixture
def spoilt(good, tmp_path):
    return shutil.copy(good, tmp_path / "spoilt.jiffy")


def test_the_codec_of_these_tests(good, spoilt):
    write_head(spoilt, read_head(good))
    assert spoilt.read_bytes() == good.read_bytes()


def parameter(head: dict, name: str) -> dict:
    return next(p for p in head["parameters"] if p["name"].startswith(name))


def setting(what: str, index: int, **fields: object) -> Callable[[dict], object]:
    """Of the head, or of its first program."""
    return lambda head: (head if what in head else head["programs"][0])[what][index].update(fields)


def matrix(**fields: object) -> Callable[[dict], object]:
    return lambda head: parameter(head, "layers.0.mlp.up_proj").update(fields)


def rope(**fields: object) -> Callable[[dict], object]:
    return lambda head: next(p for p in head["parameters"] if p["kind"] == 2).update(fields)


def floats(**fields: object) -> Callable[[dict], object]:
    return lambda head: next(p for p in head["parameters"] if p["kind"] == 1).update(fields)


UP = "parameter layers.0.mlp.up_proj.weight"
CASES = {
    "value-space": (setting("values", 1, space=2), "program decoder value 1 space: expected 0 to 1, found 2"),
    "value-width-0": (
        setting("values", 1, width=0),
        "program decoder value 1 width: expected 1 to 2147483647, found 0",
    ),
    "value-width-2^62": (setting("values", 1, width=2**62), "decoder value 1 width"),
    "value-bits": (setting("values", 1, bits=7), "program value: expected f32, bf16 or q8 rows"),
    "value-group": (setting("values", 1, group=2**40), "program value: expected f32, bf16 or q8 rows"),
    "parameter-kind": (setting("parameters", 0, kind=3), "kind: expected 0 to 2, found 3"),
    "rows-0": (matrix(rows=0), f"{UP} rows: expected 1 to 2147483647, found 0"),
    "rows-more": (matrix(rows=INT32), f"{UP} rows: expected slabs of"),
    "cols-0": (matrix(cols=0), f"{UP} cols: expected 1 to 2147483647"),
    "cols-more": (matrix(cols=INT32), f"{UP} slab_stride: expected a multiple of 64 from"),
    "tensor-attachment": (matrix(tensor=0), f"{UP} tensor: expected a tensor of weights"),
    "tensor-past-end": (matrix(tensor=999), f"{UP} tensor: expected a tensor of weights"),
    "tensor-negative": (matrix(tensor=-1), f"{UP} tensor: expected 0 to"),
    "offset-odd": (matrix(offset=1), f"{UP} offset: expected a multiple of 64"),
    "offset-negative": (matrix(offset=-64), f"{UP} offset: expected 0 to"),
    "offset-past-end": (matrix(offset=1 << 40), f"{UP} offset: expected a multiple of 64 up to"),
    "offset-2^63": (matrix(offset=2**63 - 64), f"{UP} offset: expected a multiple of 64 up to"),
    "offset-one-slab-on": (matrix(offset=2 * 320), f"{UP} rows: expected slabs of"),
    "stride-0": (matrix(slab_stride=0), f"{UP} slab_stride: expected 64 to"),
    "stride-odd": (matrix(slab_stride=777), f"{UP} slab_stride: expected a multiple of 64"),
    "stride-2^62": (matrix(slab_stride=2**62), f"{UP} rows: expected slabs of"),
    "bits": (matrix(bits=5), f"{UP} format: expected f32, bf16, or 4 or 8 bits"),
    "group": (matrix(group=0), f"{UP} format: expected f32, bf16, or 4 or 8 bits"),
    "group-other": (matrix(group=64), "expected"),
    "bits-32": (matrix(bits=32, group=1), f"{UP} slab_stride: expected a multiple of 64 from 2048"),
    "offset-kind": (matrix(offset_kind=3), f"{UP} offset kind: expected 0 to 2, found 3"),
    "scale-type": (matrix(scale_type=9), f"{UP} scale type: expected 0 to 1, found 9"),
    "floats-rows": (floats(rows=INT32), "rows: expected"),
    "floats-cols": (floats(cols=INT32), "rows: expected 2147483647 floats each within"),
    "rope-none": (rope(frequencies=[]), "frequencies: expected finite numbers"),
    "rope-nan": (rope(frequencies=[float("nan")] * 4), "frequencies: expected finite numbers"),
    "rope-infinite-factor": (rope(factor=float("inf")), "frequencies: expected finite numbers"),
    "rope-width": (rope(frequencies=[1.0]), "floats ["),
    "rope-sine": (rope(sine=2), "sine: expected 0 to 1, found 2"),
    "op": (
        setting("instructions", 2, op="system"),
        'decoder instruction 2 op: expected an op of a program, found "system"',
    ),
    "inputs": (setting("instructions", 2, inputs=[10**6]), "program instruction 2"),
    "inputs-negative": (setting("instructions", 2, inputs=[-1]), "program instruction 2"),
    "outputs": (setting("instructions", 2, outputs=[]), "program instruction 2"),
    "parameters": (setting("instructions", 2, parameters=[-2]), "program instruction 2"),
    "eps": (setting("instructions", 1, eps=float("nan")), "program instruction 1 (rms_norm)"),
    "n_heads": (lambda head: _attention(head).update(n_heads=2**62), "(attention)"),
    "head_dim": (lambda head: _attention(head).update(head_dim=-8), "(attention)"),
    "layer": (lambda head: _attention(head).update(layer=7), "(attention)"),
    "causal": (setting("instructions", 2, causal=2), "instruction 2 causal: expected 0 to 1"),
    "indices": (setting("instructions", 2, indices=3), "instruction 2 indices: expected 0 to 2"),
    "function": (setting("instructions", 2, function=3), "instruction 2 function: expected 0 to 2"),
    "pooling": (setting("instructions", 2, pooling=4), "instruction 2 pooling: expected 0 to 3"),
    "mark": (setting("marks", 0, value=10**6), "program decoder mark embed_tokens: expected a value below"),
    "result": (lambda head: head["programs"][0].update(result=10**6), "program result"),
    "context-0": (lambda head: head.update(context_length=0), "context_length: expected 1 to 2147483647, found 0"),
    "tensor-bytes-0": (setting("tensors", -1, bytes=0), "bytes: expected 1 to"),
    "tensor-bytes-2^62": (setting("tensors", -1, bytes=2**62 - 1), "checksums: expected"),
    "tensor-shorter": (setting("tensors", -1, bytes=64), "expected"),
    "tensor-name": (setting("tensors", -1, name="x"), "header at "),
    "tensor-name-quote": (setting("tensors", -1, name='"}'), "header at "),
    "tensor-name-control": (setting("tensors", -1, name="\x1b[31m"), "name: expected printable ASCII"),
    "mark-name": (setting("marks", 0, name="é"), "decoder mark 0 name: expected printable ASCII"),
    "checksums-none": (setting("tensors", -1, checksums=[]), "checksums: expected 1, found 0"),
    "checksums-wrong": (setting("tensors", -1, checksums=[1]), "bytes of their checksum, found damage from byte 0"),
    "no-tensors": (lambda head: head.update(tensors=[], n_attachments=0), "tensor: expected a tensor of weights"),
    "attachments": (lambda head: head.update(n_attachments=10**6), "n_attachments: expected 0 to"),
    "attachments-negative": (lambda head: head.update(n_attachments=-1), "n_attachments: expected 0 to"),
    "program-twice": (lambda head: head.update(programs=2 * head["programs"]), "programs: expected one of a name"),
    "program-name": (setting("programs", 0, name="dec0der"), "programs: expected decoder, found dec0der"),
    "no-config": (lambda head: head["tensors"][0].update(name="c0nfig"), "header at "),
}


def _attention(head: dict) -> dict:
    return next(at for at in head["programs"][0]["instructions"] if at["op"] == "attention")


@pytest.mark.parametrize("name", CASES)
def test_every_field(spoilt, name):
    change, message = CASES[name]
    head = read_head(spoilt)
    change(head)
    write_head(spoilt, head)
    with pytest.raises(FormatError) as caught:
        jiffy.load(spoilt)
    assert message in str(caught.value) and caught.value.where and len(str(caught.value)) < 2000


def _config(spoilt, change: Callable[[bytes], bytes]) -> None:
    """The config, in as many bytes, with its checksum put right."""
    from jiffy import _core

    head = read_head(spoilt)
    raw = bytearray(spoilt.read_bytes())
    begin = 8 + int.from_bytes(raw[:8], "little") + -(-(32 + len(body_of(spoilt))) // 4096) * 4096
    n = head["tensors"][0]["bytes"]
    new = change(bytes(raw[begin : begin + n]))
    assert len(new) == n and new != raw[begin : begin + n]
    raw[begin : begin + n] = new
    spoilt.write_bytes(raw)
    head["tensors"][0]["checksums"] = [_core.checksum(new)]
    write_head(spoilt, head)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"vocab_size": 259', b'"vocab_size": 258', "config vocab_size: expected 259, as in its program"),
        (b'"vocab_size": 259', b'"vocab_size": 2.9', "config vocab_size: expected an integer"),
        (b'"tied": true', b'"tied":    1', "config tied: expected true or false"),
        (b'"dim"', b'"dum"', "config dim: expected an integer"),
        (b'"eos_ids": [', b'"eos_ids":["', "config"),
        (b'"windows": [0, 0]', b'"windows": [0,-1]', "config windows: expected ints"),
        (b'"RopeScaling"', b'"RopeScalinG"', "config rope_scaling kind: expected one of RopeScaling"),
        (b'"RopeScaling"', b'"YarnScaling"', "config rope_scaling"),
        (b'"Config"', b'"C0nfig"', "config kind: expected one of Config, EncoderConfig, Seq2SeqConfig"),
        (b"{", b"[", "config"),
    ],
)
def test_config(spoilt, old, new, message):
    _config(spoilt, lambda raw: raw.replace(old, new, 1))
    with pytest.raises(FormatError, match="spoilt.jiffy " + message):
        jiffy.load(spoilt)


def test_a_damaged_config_is_no_other_file(spoilt):
    raw = bytearray(spoilt.read_bytes())
    begin = raw.index(b'{"model_type"')
    raw[begin + 5] ^= 1
    spoilt.write_bytes(raw)
    with pytest.raises(FormatError, match="spoilt.jiffy config: expected bytes of their checksum"):
        jiffy.load(spoilt)


def test_another_layout(spoilt):
    raw = bytearray(spoilt.read_bytes())
    raw[8 + int.from_bytes(raw[:8], "little") + 8] += 1
    spoilt.write_bytes(raw)
    with pytest.raises(Unsupported, match="spoilt.jiffy layout version: expected 5, which this jiffy writes"):
        jiffy.load(spoilt)


def _loads(path, logits) -> bool:
    """Whether it loads, and then with the same bits."""
    try:
        model = jiffy.load(path, n_threads=1)
    except Error:
        return False
    assert np.array_equal(model.logits(IDS), logits)
    return True


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_truncated(good, tmp_path_factory, logits, data):
    raw = good.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.jiffy"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    assert not _loads(path, logits)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bit_flipped(good, tmp_path_factory, logits, data):
    """It is seen, or lies in the zeros that fill tensors up."""
    raw = bytearray(good.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    at = data.draw(st.integers(0, length + 5000) | st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.jiffy"
    path.write_bytes(raw)
    if _loads(path, logits):
        assert good.read_bytes()[at] == 0 and at > 8 + length


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_byte_of_the_head(good, tmp_path_factory, data):
    """With a checksum that fits: an error, or a model that computes something."""
    path = tmp_path_factory.getbasetemp() / "head.jiffy"
    shutil.copy(good, path)
    body = bytearray(body_of(good))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]) | st.integers(0, 255))
    write_body(path, body)
    try:
        jiffy.load(path, n_threads=1, context=16, max_batch=1).logits(IDS)
    except Error as error:
        assert error.where and error.expected and error.found
