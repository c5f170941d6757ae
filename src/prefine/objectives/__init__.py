"""Objectives: pure functions from scores to a loss, one small family a file."""

from prefine.objectives.scores import Loss, Scores, Term

__all__ = ["Loss", "Scores", "Term"]
