"""Language removal against its papers' algorithms in numpy and scikit-learn, and what it does to a planted bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import TruncatedSVD

from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.language_removal import LanguageRemoval, Method

NAMES = ("de", "sw", "th", "yo")
METHODS: tuple[Method, ...] = ("centring", "lir", "lsar")
DIM = 12


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_passages(seed: int, size: int = 80, num_languages: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings of length 1, with a shift of each language."""
    rng = np.random.default_rng(seed)
    languages = np.r_[np.repeat(np.arange(num_languages), 8), rng.integers(num_languages, size=size)]
    shifts = rng.normal(size=(num_languages, DIM))
    passages = unit(rng.normal(size=(len(languages), DIM)) + shifts[languages])
    return torch.as_tensor(passages, dtype=torch.float32), languages


seeds = st.integers(0, 2**32 - 1)


# ----------------------------------------------------------------------------------------------- other implementations


@given(seeds)
@settings(max_examples=25)
def test_centring_subtracts_each_languages_mean(seed: int) -> None:
    passages, languages = make_passages(seed)
    removal = LanguageRemoval.fit(passages, languages, NAMES, "centring")
    x = passages.numpy().astype(np.float64)
    centred = np.empty_like(x)
    for language in range(len(NAMES)):
        centred[languages == language] = x[languages == language] - x[languages == language].mean(axis=0)
        assert removal.centres is not None
        before_normalisation = passages[languages == language].double() - removal.centres[language]
        assert float(before_normalisation.mean(dim=0).abs().max()) < 1e-12
    np.testing.assert_allclose(removal.apply(passages, languages).numpy(), unit(centred), atol=1e-6)


@given(seeds, st.integers(1, 4))
@settings(max_examples=25)
def test_lir_projects_out_what_scikit_learn_finds(seed: int, components: int) -> None:
    """Of the uncentred matrix of each language's embeddings, as TruncatedSVD takes it."""
    passages, languages = make_passages(seed)
    x = passages.numpy().astype(np.float64)
    expected = np.empty_like(x)
    for language in range(len(NAMES)):
        rows = x[languages == language]
        found = TruncatedSVD(components, algorithm="arpack", random_state=0).fit(rows).components_
        expected[languages == language] = rows - rows @ found.T @ found
    removal = LanguageRemoval.fit(passages, languages, NAMES, "lir", components)
    np.testing.assert_allclose(removal.apply(passages, languages).numpy(), unit(expected), atol=2e-6)


def lsar_algorithm_1(means: np.ndarray, rank: int) -> np.ndarray:
    """[dim, rank] language-specific directions by both decompositions of the paper; means [dim, languages]."""
    ones = np.ones((1, means.shape[1]))
    shared = means.mean(axis=1, keepdims=True)
    u, s, vt = np.linalg.svd(means - shared @ ones, full_matrices=False)
    low_rank = u[:, :rank] * s[:rank] @ vt[:rank] + shared @ ones
    direction = np.linalg.pinv(low_rank).T @ ones.T
    shared = direction / (direction**2).sum()
    return np.linalg.svd(low_rank - shared @ ones, full_matrices=False)[0][:, :rank]


@given(seeds, st.integers(1, 3))
@settings(max_examples=25)
def test_lsar_is_the_papers_algorithm(seed: int, components: int) -> None:
    passages, languages = make_passages(seed)
    x = passages.numpy().astype(np.float64)
    means = np.stack([x[languages == language].mean(axis=0) for language in range(len(NAMES))], axis=1)
    directions = lsar_algorithm_1(means, components)
    removal = LanguageRemoval.fit(passages, languages, NAMES, "lsar", components)
    expected = unit(x - x @ directions @ directions.T)
    np.testing.assert_allclose(removal.apply(passages, languages).numpy(), expected, atol=2e-6)


# ---------------------------------------------------------------------------------------------------------- properties


@given(seeds)
@settings(max_examples=25)
def test_lsar_leaves_no_difference_between_the_means(seed: int) -> None:
    passages, languages = make_passages(seed)
    removal = LanguageRemoval.fit(passages, languages, NAMES, "lsar")
    assert removal.directions is not None
    (directions,) = removal.directions
    assert directions.shape == (DIM, len(NAMES) - 1)
    projected = passages.double() - passages.double() @ directions @ directions.T
    means = torch.stack([projected[languages == language].mean(dim=0) for language in range(len(NAMES))])
    assert float((means - means[0]).abs().max()) < 1e-6


@given(seeds, st.sampled_from([("lir", 1), ("lir", 3), ("lsar", 1), ("lsar", 3)]))
@settings(max_examples=25)
def test_projections_are_orthogonal_and_idempotent(seed: int, kind: tuple[Method, int]) -> None:
    passages, languages = make_passages(seed)
    queries, query_languages = make_passages(seed + 1)
    removal = LanguageRemoval.fit(passages, languages, NAMES, *kind)
    assert removal.directions is not None
    for directions in removal.directions:
        torch.testing.assert_close(directions.T @ directions, torch.eye(kind[1], dtype=torch.float64))
    cleaned = removal.apply(queries, query_languages)
    assert cleaned.dtype == torch.float32
    torch.testing.assert_close(cleaned.norm(dim=1), torch.ones(len(queries)))
    torch.testing.assert_close(removal.apply(cleaned, query_languages), cleaned)
    for row, language in zip(cleaned.double(), query_languages, strict=True):
        directions = removal.directions[language if kind[0] == "lir" else 0]
        assert float((row @ directions).abs().max()) < 1e-6


@given(seeds, st.sampled_from(METHODS))
@settings(max_examples=25)
def test_the_order_of_rows_does_not_matter(seed: int, method: Method) -> None:
    passages, languages = make_passages(seed)
    order = np.random.default_rng(seed).permutation(len(languages))
    queries, query_languages = make_passages(seed + 1)
    first = LanguageRemoval.fit(passages, languages, NAMES, method)
    second = LanguageRemoval.fit(passages[order], languages[order], NAMES, method)
    cleaned = first.apply(queries, query_languages)
    torch.testing.assert_close(second.apply(queries, query_languages), cleaned, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.apply(queries[order], query_languages[order]), cleaned[order], atol=1e-6, rtol=0)
    again = LanguageRemoval.fit(passages, languages, NAMES, method)
    assert torch.equal(again.apply(queries, query_languages), cleaned)


def test_lsar_removes_no_more_than_there_is() -> None:
    """Two of three languages have the same mean: one direction tells them apart, and only that one goes."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(50, DIM))
    half[:, 0] = 0
    centred = np.r_[half, -half]
    passages = np.concatenate([centred, centred, centred + np.eye(DIM)[0]])
    removal = LanguageRemoval.fit(torch.as_tensor(passages), np.repeat([0, 1, 2], 100), NAMES[:3], "lsar")
    assert removal.directions is not None
    projection = removal.directions[0] @ removal.directions[0].T
    torch.testing.assert_close(projection, torch.diag(torch.eye(DIM, dtype=torch.float64)[0]))


def test_lsar_needs_no_passages_of_a_querys_language() -> None:
    passages, languages = make_passages(0, num_languages=3)
    removal = LanguageRemoval.fit(passages, languages, NAMES, "lsar")
    query = make_passages(1)[0][:1]
    torch.testing.assert_close(removal.apply(query, np.array([3])), removal.apply(query, np.array([0])))


def multilingual_map(queries: torch.Tensor, passages: torch.Tensor, answers: np.ndarray) -> float:
    """Mean average precision in the pool of all passages; answers [queries, passages] bool."""
    order = (-queries @ passages.T).argsort(dim=1).numpy()
    hits = np.take_along_axis(answers, order, axis=1)
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(axis=1) / hits.sum(axis=1)).mean())


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_language_direction_is_undone(method: Method) -> None:
    """Parallel passages, each language with a shift of its own larger than what the meanings differ by."""
    rng = np.random.default_rng(5)
    questions, dim = 60, 64
    meanings = rng.normal(size=(questions, dim))
    shifts = 20 * unit(rng.normal(size=(len(NAMES), dim)))
    languages = np.repeat(np.arange(len(NAMES)), questions)
    question = np.tile(np.arange(questions), len(NAMES))

    def embed(noise: float) -> torch.Tensor:
        texts = meanings[question] + shifts[languages] + noise * rng.normal(size=(len(question), dim))
        return torch.as_tensor(unit(texts), dtype=torch.float32)

    passages, queries = embed(0.1), embed(0.3)
    answers = question[:, None] == question[None, :]
    removal = LanguageRemoval.fit(passages, languages, NAMES, method)
    before = multilingual_map(queries, passages, answers)
    after = multilingual_map(removal.apply(queries, languages), removal.apply(passages, languages), answers)
    assert before < 0.6
    assert after > 0.97


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("method", "components", "sizes", "message"),
    [
        ("lir", 3, [9, 3, 9], r"needs 4 passages or more in each language, sw has 3; .*components=3"),
        ("lir", None, [9, 0, 9], r"needs 2 passages or more in each language, sw has 0"),
        ("centring", None, [9, 1, 9], r"method=centring: needs 2 passages or more in each language, sw has 1"),
        ("lir", DIM, [20, 20, 20], rf"components={DIM}: embeddings have {DIM} dimensions"),
        ("lsar", 3, [9, 9, 9], r"components=3: the means of 3 languages differ in 2 directions; use at most 2"),
        ("lsar", 2, [9, 0, 9], r"components=2: the means of 2 languages differ in 1 directions; use at most 1"),
        ("centring", None, [9, 0, 0], r"method=centring: needs passages in two languages or more, .* in 1"),
        ("lir", None, [9, 0, 0], r"method=lir: needs passages in two languages or more"),
        ("lsar", None, [9, 0, 0], r"method=lsar: needs passages in two languages or more"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_line(
    method: Method, components: int | None, sizes: list[int], message: str
) -> None:
    languages = np.repeat(np.arange(3), sizes)
    passages = torch.randn(len(languages), DIM, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=message) as caught:
        LanguageRemoval.fit(passages, languages, NAMES[:3], method, components)
    assert "\n" not in str(caught.value)
