"""What mteb's metadata do not say of its retrieval tasks: which language is the corpus', and how far a number carries.

Read from mteb 2.26 (sources and descriptive statistics of the tasks).
"""

from __future__ import annotations

CORPUS_FIRST = frozenset({"BelebeleRetrieval", "MLQARetrieval", "XPQARetrieval"})
"""Tasks whose subsets list (corpus language, query language)."""

QUERY_FIRST = frozenset({"CUREv1"})
"""Tasks whose subsets list (query language, corpus language)."""

ASSUMED_QUERY_FIRST = frozenset({"CrossLingualSemanticDiscriminationWMT19", "CrossLingualSemanticDiscriminationWMT21"})
"""Sentences are searched for by their translations, from the source to the target of the data set's names: taken as
(query language, corpus language), which neither mteb nor the data say."""

_HARD_NEGATIVES = (
    "at most 1,000 queries a language, and a corpus cut to the 250 best passages of three systems for each query, "
    "except for bn, sw and yo, where it is MIRACL's whole corpus: its values are not MIRACL's"
)

CAVEATS: dict[str, str] = {
    "BelebeleRetrieval": (
        "488 short passages a language and 900 questions that were written for multiple choice, some of which "
        "('according to the passage') name no subject"
    ),
    "MIRACLRetrievalHardNegatives": _HARD_NEGATIVES,
    "MIRACLRetrievalHardNegatives.v2": _HARD_NEGATIVES,
    "MLQARetrieval": "paragraphs, not the sentences of MLQA-R; its validation split has the questions of MLQA-R",
    "MMarcoRetrievalMultilingual": "machine translations; about 107,000 of MS MARCO's 8.8 million passages a language",
    "MrTidyRetrieval": "its questions are TyDi's, as MIRACL's are in the same languages; its passages are others",
    "XQuADRetrieval": "240 paragraphs a language, each in the query's own language: it is not XQuAD-R",
}
"""What a reader of a task's numbers must know, by the task's name."""


def corpus_comes_first(task: str) -> bool:
    """Whether a task's subsets name the corpus' language first, as those of most tasks do."""
    return task not in QUERY_FIRST | ASSUMED_QUERY_FIRST


def order_is_known(task: str) -> bool:
    """Whether the order of a task's languages was read from mteb and is no assumption."""
    return task in CORPUS_FIRST | QUERY_FIRST
