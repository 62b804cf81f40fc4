"""Metrics of generated answers.

==================  ==========  =====================================================================
name                range       what it is
==================  ==========  =====================================================================
``exact_match``     0 to 1      fraction of answers equal to the reference, ignoring outer space
``f1``              0 to 1      overlap of words, as `SQuAD <https://arxiv.org/abs/1606.05250>`_ counts it
``bleu``            0 to 100    `BLEU <https://aclanthology.org/P02-1040>`_ of the corpus, by sacrebleu
``rouge1``          0 to 1      `ROUGE <https://aclanthology.org/W04-1013>`_ F-measure of words
``rouge2``          0 to 1      … of pairs of words
``rougeL``          0 to 1      … of the longest common subsequence
==================  ==========  =====================================================================
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from efficientai_toolkit._base.extras import require

SCORED = ("perplexity", "token_accuracy")
"""Metrics computed from the tokens of the references, without generation."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_words(text: str) -> list[str]:
    """Split a text into words normalized as in SQuAD: lower case, no punctuation or articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def compute_f1(answer: str, reference: str) -> float:
    """Compute the F1 score of words; 1 if both texts have none."""
    given, right = normalize_words(answer), normalize_words(reference)
    if not given or not right:
        return float(given == right)
    shared = (Counter(given) & Counter(right)).total()
    return 2 * shared / (len(given) + len(right))


def _exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    return fmean(a.strip() == r.strip() for a, r in zip(answers, references, strict=True))


def _f1(answers: Sequence[str], references: Sequence[str]) -> float:
    return fmean(map(compute_f1, answers, references))


def _bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    sacrebleu = require("sacrebleu", extra="evaluation", purpose="metric `bleu`")
    return float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)


def _rouge(kind: str) -> Callable[[Sequence[str], Sequence[str]], float]:
    def score(answers: Sequence[str], references: Sequence[str]) -> float:
        rouge = require("rouge_score.rouge_scorer", extra="evaluation", purpose=f"metric `{kind}`")
        scorer = rouge.RougeScorer([kind])
        return fmean(scorer.score(r, a)[kind].fmeasure for a, r in zip(answers, references, strict=True))

    return score


GENERATED: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "exact_match": _exact_match,
    "f1": _f1,
    "bleu": _bleu,
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
}
"""Functions that map answers and references to a score."""

METRICS = (*SCORED, *GENERATED)
"""All metrics."""


def check_installed(metrics: Sequence[str]) -> None:
    """Check that the optional dependencies of ``metrics`` are installed.

    Raises
    ------
    DependencyError
        If one is missing.
    """
    for name in metrics:
        if name in GENERATED:
            GENERATED[name]([""], [""])
