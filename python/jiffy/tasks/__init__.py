"""What people come for, each a function of one text or many.

model: a loaded `jiffy.Encoder`, what `jiffy.load_encoder` takes, or None for the default, all-MiniLM-L6-v2; models that
are named are loaded with weights in i8g32, and the last few stay loaded. Where embeddings are all that is needed,
`jiffy.StaticVectors` and their files will do.

One text gives one result, a list a list (embeddings: an array [n, dim]), any other iterable an iterator that takes
texts as results are asked for. errors: "raise" what is wrong with a text at its turn (an iterator goes on with the next
text when it is asked again), or "return" the error in the place of a result. overflow: "error", or "truncate" to leave
out the end of a text that is longer than the model's context. progress: a bar on a terminal for long lists.
"""

from __future__ import annotations

from .answers import Answer, question_answering
from .classification import Classification, Classifier, fit, text_classification, zero_shot
from .embeddings import embed, similarity
from .ranking import Ranked, rerank
from .static import string_to_vector
from .summarization import summarization
from .tokens import Entity, token_classification
from .translation import machine_translation

__all__ = [
    "Answer", "Classification", "Classifier", "Entity", "Ranked", "embed", "fit", "machine_translation",
    "question_answering", "rerank", "similarity", "string_to_vector", "summarization", "text_classification",
    "token_classification", "zero_shot",
]  # fmt: skip
