"""From the project's `[deploy.analysis]` to the judge's rules."""

from __future__ import annotations

from intermodal.project.schema import Analysis
from intermodal.rooms.watch.judge import Rules


def rules_of(analysis: Analysis) -> Rules:
    """The rules of a rollout; its classes are chosen later, from stable."""
    default = Rules()
    return Rules(
        errors_ratio=analysis.errors_ratio,
        slow_ratio=analysis.slow_ratio,
        class_ratio=analysis.class_ratio,
        class_shift_fails=analysis.class_shift == "rollback",
        max_error_rate=default.max_error_rate if analysis.max_error_rate is None else analysis.max_error_rate,
        max_p99_s=analysis.max_p99_s,
        wrong_ratio=analysis.wrong_ratio,
        disagreement=analysis.disagreement,
    )
