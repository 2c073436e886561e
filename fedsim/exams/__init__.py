"""What a model is asked beside how good its scores are."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.exams.attention import Attention
from fedsim.exams.exam import Exam
from fedsim.exams.generated import Generated
from fedsim.exams.guided import Guided
from fedsim.exams.paths import Paths
from fedsim.exams.reconstruction import Reconstruction
from fedsim.exams.sharpness import Steepness

EXAMS: dict[str, Callable[..., Exam]] = {
    "reconstruction": Reconstruction,
    "paths": Paths,
    "guided": Guided,
    "generated": Generated,
    "attention": Attention,
    "sharpness": Steepness,
}

__all__ = ["EXAMS", "Attention", "Exam"]
