"""What a model is asked beside how good its scores are."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.exams.attention import Attention
from fedsim.exams.exam import Exam

EXAMS: dict[str, Callable[..., Exam]] = {"attention": Attention}

__all__ = ["EXAMS", "Attention", "Exam"]
