"""Language information removed from embeddings after training, without training: centring, LIR and LSAR.

All three are fitted on passages alone and applied to passages and queries alike, which then get length 1 again.
``docs/language_bias.md`` says what each one assumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hybrid_ir.errors import UserError

Method = Literal["centring", "lir", "lsar"]


@dataclass(frozen=True)
class LanguageRemoval:
    """What is taken out of the embeddings of each language, in float64."""

    centres: Tensor | None
    """[languages, dim]: subtracted."""
    directions: Tensor | None
    """[languages or 1, dim, components]: orthonormal columns that are projected out, of each language or of all. A
    column of zeros stands for a component that the data does not have."""

    @classmethod
    def fit(
        cls,
        passages: Tensor,
        languages: np.ndarray,
        names: Sequence[str],
        method: Method,
        components: int | None = None,
    ) -> LanguageRemoval:
        """Finds what to remove.

        ``centring``: the mean passage embedding of each language.

        ``lir`` (Language Information Removal; Yang et al. 2021, arXiv 2109.04727): the leading left singular vectors of
        the matrix whose columns are a language's embeddings. It is not centred, so that the first one is close to the
        direction of the mean.

        ``lsar`` (Low-rank Subspaces for language-Agnostic Representations; Xie et al. 2022, arXiv 2401.05792, algorithm
        1): the leading left singular vectors of the matrix whose columns are the languages' mean embeddings, less their
        mean. The algorithm goes on to decompose them around another point of their affine hull; that gives another
        basis of the same subspace, hence the same projection, and is left out.

        Args:
            passages: [N, dim] float32: embeddings of passages.
            languages: [N] int: index of each passage's language.
            names: code of each language.
            method: which of the three.
            components: directions to remove, of each language (``lir``; default 1) or in all (``lsar``; default the
                number of languages with passages less 1, which is all that the means differ by).

        Raises:
            UserError: the passages are of one language, or too few for the method, or nothing would be left.
        """
        counts = np.bincount(languages, minlength=len(names))
        fitted = np.flatnonzero(counts).tolist()
        if len(fitted) < 2:
            raise UserError(
                f"language_removal.method={method}: needs passages in two languages or more, there are passages in "
                f"{len(fitted)}; use language_removal.method=none"
            )
        groups = [np.flatnonzero(languages == language) for language in fitted]
        if method == "lsar":
            components = len(fitted) - 1 if components is None else components
            if components > len(fitted) - 1:
                raise UserError(
                    f"language_removal.components={components}: the means of {len(fitted)} languages differ in "
                    f"{len(fitted) - 1} directions; use at most {len(fitted) - 1}"
                )
            _check_left(components, passages.shape[1])
            means = torch.stack([_rows(passages, group).mean(dim=0) for group in groups], dim=1)
            return cls(None, _leading(means - means.mean(dim=1, keepdim=True), components).unsqueeze(0))

        removed = 1 if components is None or method == "centring" else components
        fewest = int(np.argmin(counts))
        if counts[fewest] <= removed:
            # Of so few passages nothing, or next to nothing, would be left.
            raise UserError(
                f"language_removal.method={method}: needs {removed + 1} passages or more in each language, "
                f"{names[fewest]} has {counts[fewest]}; leave it out of the benchmark's languages"
                + (f", or lower language_removal.components={components}" if removed > 1 else "")
            )
        if method == "centring":
            return cls(torch.stack([_rows(passages, group).mean(dim=0) for group in groups]), None)
        _check_left(removed, passages.shape[1])
        return cls(None, torch.stack([_leading(_rows(passages, group).T, removed) for group in groups]))

    def apply(self, embeddings: Tensor, languages: np.ndarray) -> Tensor:
        """Embeddings without what was fitted.

        Args:
            embeddings: [n, dim] float32, of passages or queries.
            languages: [n] int: index of each text's language.

        Returns:
            [n, dim] float32 on the same device, each row of length 1.
        """
        cleaned = torch.empty_like(embeddings)
        for language in np.unique(languages).tolist():
            rows = torch.as_tensor(np.flatnonzero(languages == language), device=embeddings.device)
            part = embeddings[rows].double()
            if self.centres is not None:
                part -= self.centres[language].to(part.device)
            if self.directions is not None:
                directions = self.directions[language if len(self.directions) > 1 else 0].to(part.device)
                part -= (part @ directions) @ directions.T
            cleaned[rows] = normalize(part, dim=1).to(embeddings.dtype)
        return cleaned


def _rows(passages: Tensor, rows: np.ndarray) -> Tensor:
    return passages[torch.as_tensor(rows, device=passages.device)].double().cpu()


def _leading(matrix: Tensor, components: int) -> Tensor:
    """[dim, components]: the leading left singular vectors of a matrix [dim, columns]; 0 beyond its rank."""
    # eigh of [dim, dim] rather than svd: the columns may be many, and no vectors but the left ones are needed.
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    # The other vectors of a matrix of lower rank are arbitrary: to project them out would only do harm.
    there = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return (vectors * there)[:, -components:].flip(1)


def _check_left(components: int, dim: int) -> None:
    if components >= dim:
        raise UserError(
            f"language_removal.components={components}: embeddings have {dim} dimensions, of which nothing would be "
            f"left; use at most {dim - 1}"
        )
