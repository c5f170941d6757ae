"""Judges: slates in, columns of feedback out.

answers      finding final answers, and telling when two are equal
checks       verifier (against the gold answer), votes (self-consistency), Length, Keywords
compared     BradleyTerryTable (scores to a table), WinRates (a table to scores)
induced      induced: a score from a judge that only compares
models       implicit_reward, reward_model, process_reward
language     language_judge (a written grade), yes_judge (the probability of a yes), SelfJudge
users        a function of one's own, by file and name
annotators   people to practise on, made from a gold judge
polls        Polled (several votes a comparison), zermelo (strengths from wins)
flags        Flagged: yes-or-no labels from scores, for factuality
tagged       Tagged: right, wrong, unreadable, out of form, from tags around thought and answer

``find("length:words")`` gives a judge by its name on the command line, see ``JUDGES``.
"""

from __future__ import annotations

from prefine.judging.answers import boxed, final_answer, last_number, same
from prefine.judging.base import Compared, Judge, Scored, spoken_by
from prefine.judging.checks import Keywords, Length, Verifier, Votes, extract_by, verifier, votes
from prefine.judging.compared import BradleyTerryTable, WinRates
from prefine.judging.induced import Induced, induced
from prefine.judging.language import LanguageJudge, SelfJudge, YesProbability, language_judge, yes_judge
from prefine.judging.models import (
    ImplicitReward,
    OnDisk,
    ProcessReward,
    RewardJudge,
    implicit_reward,
    process_reward,
    reward_model,
)
from prefine.judging.names import HELP, JUDGES, find
from prefine.judging.users import EachResponse, user_judge

__all__ = [
    "HELP",
    "JUDGES",
    "BradleyTerryTable",
    "Compared",
    "EachResponse",
    "ImplicitReward",
    "Induced",
    "Judge",
    "Keywords",
    "LanguageJudge",
    "Length",
    "OnDisk",
    "ProcessReward",
    "RewardJudge",
    "Scored",
    "SelfJudge",
    "Verifier",
    "Votes",
    "WinRates",
    "YesProbability",
    "boxed",
    "extract_by",
    "final_answer",
    "find",
    "implicit_reward",
    "induced",
    "language_judge",
    "last_number",
    "process_reward",
    "reward_model",
    "same",
    "spoken_by",
    "user_judge",
    "verifier",
    "votes",
    "yes_judge",
]
