"""Texts to labels: by a checkpoint's head, by a linear head trained on embeddings, or by the names of the labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..encoder import softmax
from ..errors import Error, FormatError, ParameterError, shown
from ..safetensors import read_metadata, read_safetensors, write_safetensors
from .embeddings import embed
from .logistic import train
from .models import delivered, embedder_of, encoder_of

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..encoder_texts import Text
    from ..static_vectors import StaticVectors

# A cosine of 0.05 more makes a label e times as likely: about what embeddings are trained with (a scale of 20).
_SCALE = 20.0
_MAX_LABELS = 10_000
_TEMPLATE = "This text is about {}."


@dataclass(frozen=True)
class Classification:
    """label: the likeliest one, score: its probability; scores: of all labels, the likeliest first."""

    label: str
    score: float
    scores: dict[str, float]

    @classmethod
    def of(cls, labels: Sequence[str], probabilities: np.ndarray) -> Classification:
        order = np.argsort(-probabilities, kind="stable")
        scores = {labels[i]: float(probabilities[i]) for i in order}
        label = labels[int(order[0])]
        return cls(label, scores[label], scores)


@dataclass(frozen=True)
class Classifier:
    """A linear head over normalised embeddings: probabilities softmax(weight x + bias), weight [labels, dim].

    model: the encoder that it was trained with, as `jiffy.tasks` takes it.
    """

    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    model: Encoder | StaticVectors | str | os.PathLike[str] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file: the head alone, not its encoder."""
        tensors = {"weight": self.weight, "bias": self.bias}
        write_safetensors(Path(path), tensors, {"format": "jiffy classifier", "labels": json.dumps(self.labels)})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: Encoder | StaticVectors | str | os.PathLike[str] | None = None
    ) -> Classifier:
        """A head that `save` wrote, for the encoder that it was trained with. Raises FormatError."""
        path = Path(path)
        entries = read_safetensors(path)
        labels = _saved_labels(path)
        arrays = {}
        for name, n_dims in (("weight", 2), ("bias", 1)):
            entry = entries.get(name)
            if entry is None or entry.dtype != "f32" or len(entry.shape) != n_dims or entry.shape[0] != len(labels):
                expected = f"f32, {n_dims}-dimensional, {len(labels)} rows, one a label"
                found = "no such tensor" if entry is None else f"{entry.dtype} {list(entry.shape)}"
                raise FormatError(f"{path.name} {name}", expected=expected, found=found)
            arrays[name] = entry.read_rows(0, len(labels)).view(np.float32).reshape(entry.shape)
            if not np.isfinite(arrays[name]).all():
                raise FormatError(f"{path.name} {name}", expected="finite weights", found="NaN or infinity")
        return cls(labels, **arrays, model=model)

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """float64 [n, labels] of normalised embeddings [n, dim]."""
        if embeddings.shape[-1] != self.weight.shape[1]:
            expected = f"embeddings of {self.weight.shape[1]} numbers, as it was trained with"
            raise ParameterError("model", expected=expected, found=str(embeddings.shape[-1]))
        return softmax(embeddings.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias)


def _saved_labels(path: Path) -> tuple[str, ...]:
    where = f"{path.name} labels"
    text = read_metadata(path).get("labels", "")
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(where, expected="a list of texts as JSON", found=str(error)) from None
    if not isinstance(labels, list) or not labels or not all(isinstance(one, str) for one in labels):
        raise FormatError(where, expected="a list of texts", found=shown(labels))
    return tuple(labels)


def fit(
    texts: Sequence[Text],
    labels: Sequence[str],
    model: Encoder | StaticVectors | str | os.PathLike[str] | None = None,
    *,
    strength: float = 1e-4,
    overflow: str = "error",
    progress: bool = True,
) -> Classifier:
    """Trains a linear head on the embeddings of labelled texts: multinomial logistic regression, in seconds, the same
    on every run. strength: of the penalty on large weights.

    Raises ParameterError for lists of different lengths, labels that aren't texts, and fewer than two of them.
    """
    texts, labels = list(texts), list(labels)
    if len(texts) != len(labels):
        raise ParameterError("labels", expected=f"{len(texts)}, one for each text", found=str(len(labels)))
    names = _checked_labels(dict.fromkeys(labels))
    if not isinstance(strength, (int, float)) or not 0 < strength < 1e6:
        raise ParameterError("strength", expected="a number between 0 and 1e6", found=shown(strength))
    x = embed(texts, model, normalize=True, overflow=overflow, progress=progress)
    numbers = {name: i for i, name in enumerate(names)}
    weight, bias = train(x, np.array([numbers[label] for label in labels]), len(names), strength)
    return Classifier(names, weight, bias, model)


def text_classification(
    texts: Text | Iterable[Text],
    model: Encoder | Classifier | str | os.PathLike[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    template: str = _TEMPLATE,
    overflow: str = "error",
    errors: str = "raise",
    progress: bool = True,
) -> Classification | list[Classification | Error] | Iterator[Classification | Error]:
    """What each text is about.

    model: a checkpoint whose head has labels, or a Classifier that `fit` made. labels: names to choose from by nothing
    but their meaning ("zero-shot"): the embedding of `template` with the name in the place of {} is compared with the
    text's. The rest is what `jiffy.tasks` says of all tasks.
    """
    if isinstance(model, Classifier) and labels is not None:
        raise ParameterError("labels", expected="none beside a Classifier, which has its own", found=shown(labels))
    asked = {"overflow": overflow, "errors": errors}
    if labels is not None:
        model = zero_shot(labels, model, template)
    if isinstance(model, Classifier):
        head, encoder = model, embedder_of(model.model)

        def ask_embeddings(some: Iterable[Text]):
            return encoder.embeddings(some, normalize=True, **asked)

        return delivered(
            texts, ask_embeddings, lambda x: Classification.of(head.labels, head.probabilities(x)), progress
        )
    encoder = encoder_of(model, "sequence")
    return delivered(
        texts, lambda some: encoder.sequence_scores(some, **asked), lambda scores: _of_head(encoder, scores), progress
    )


def zero_shot(
    labels: Sequence[str],
    model: Encoder | StaticVectors | str | os.PathLike[str] | None = None,
    template: str = _TEMPLATE,
) -> Classifier:
    """The Classifier that goes by the meaning of names alone."""
    if isinstance(labels, str) or len(set(labels)) != len(labels):
        raise ParameterError("labels", expected="a list of different texts", found=shown(labels))
    names = _checked_labels(labels)
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ParameterError("template", expected="a text with one {}", found=shown(template))
    weight = embed([template.replace("{}", name) for name in names], model, normalize=True)
    return Classifier(names, _SCALE * weight, np.zeros(len(names), np.float32), model)


def _checked_labels(labels: Iterable[object]) -> tuple[str, ...]:
    names = tuple(labels)
    for name in names:
        if not isinstance(name, str):
            raise ParameterError("labels", expected="texts", found=shown(name))
    if not 2 <= len(names) <= _MAX_LABELS:
        raise ParameterError("labels", expected=f"2 to {_MAX_LABELS} different ones", found=str(len(names)))
    return names


def _of_head(encoder: Encoder, scores: np.ndarray) -> Classification:
    """Labels that exclude each other share a probability of 1; others, and a single one, have their own each."""
    independent = encoder.config.head.independent or len(scores) == 1
    return Classification.of(encoder.labels, sigmoid(scores) if independent else softmax(scores))


def sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-scores.astype(np.float64)))
