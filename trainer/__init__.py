"""Training: Time-LLM teachers, distilled students, evaluation, publication."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.teacher import TeacherTrainer

__all__ = ["TeacherTrainer"]


def __getattr__(name: str) -> Any:
    """TeacherTrainer, imported when it is asked for: torch takes seconds, and most commands do without."""
    if name == "TeacherTrainer":
        from trainer.teacher import TeacherTrainer

        return TeacherTrainer
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
