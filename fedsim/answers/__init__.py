"""What clients do and send where an algorithm asks them for something else than a change of the model."""

from __future__ import annotations

from fedsim.answers.answer import Answers

__all__ = ["Answers"]
