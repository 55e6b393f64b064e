"""Free text: ROUGE-L against the truth, by the library rouge-score.

Its own tokenizer knows ASCII letters and digits alone: a minus, a decimal point, and every word of
Russian or Chinese are lost, so that -5 equals 5. The default hands it a tokenizer that keeps signed
numbers whole, takes words of any alphabet, and each character of scripts without spaces.
"""

from __future__ import annotations

import re

from sandbox_lite.bench.graders import notation
from sandbox_lite.bench.graders.grader import Grader, Question, Verdict
from sandbox_lite.bench.libraries import need

_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_TOKEN = re.compile(rf"(?<![\w.])[-+]?\d+(?:[.,]\d+)*|[{_NO_SPACES}]|[^\W_{_NO_SPACES}]+")


class Tokenizer:
    """Words of any alphabet, stemmed where English; the face that `RougeScorer` wants."""

    def __init__(self) -> None:
        self._stemmer = need("nltk.stem.porter", "ROUGE").PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        tokens = _TOKEN.findall(notation.plain_signs(text).lower())
        return [
            self._stemmer.stem(token) if len(token) > 3 and token.isascii() else token
            for token in tokens
        ]


def score(question: Question) -> Verdict:
    """Return the F measure of ROUGE-L."""
    library = need("rouge_score.rouge_scorer", "ROUGE")
    if question.scorer == "paper":
        scorer = library.RougeScorer(["rougeL"], use_stemmer=True)
    else:
        scorer = library.RougeScorer(["rougeL"], tokenizer=Tokenizer())
    found = scorer.score(question.truth, question.answer)["rougeL"]
    value = float(found.fmeasure)
    return Verdict(
        value=value,
        text=f"ROUGE-L {value:.3f}",
        details={"precision": float(found.precision), "recall": float(found.recall)},
    )


GRADER = Grader(
    name="rouge-l", score=score, libraries=("rouge_score.rouge_scorer", "nltk.stem.porter")
)
