"""Judges: slates in, columns of feedback out.

answers      finding final answers, and telling when two are equal
checks       verifier (against the gold answer), votes (self-consistency), Length, Keywords
compared     BradleyTerryTable (scores to a table), WinRates (a table to scores)
induced      induced: a score from a judge that only compares
models       implicit_reward, reward_model, process_reward
language     language_judge (a written grade), yes_judge (the probability of a yes), SelfJudge
anchored     Anchored, as_good_as, likeness: judges that are shown one good answer of the prompt
choices      choices: the probability of A or B when two responses stand side by side
thoughts     consistent (does the answer follow from the thought), repetition, outcome (accuracy and form)
estimates    estimate: mean relative accuracy of a number
per_token    per_token: any score divided by the length of its response
teachers     likelihood (of a response under a model), teacher (a mixture of likelihood and choices)
options      probabilities of k options: the best of all, a grade; nothing sampled, no place favoured
classifier   classifier (yes against no, over spellings, by category), stepped (whole points), agreement with pairs
dropout      dropout: a scalar or pairwise reward model asked several times with dropout on, and how far it agrees
verdicts     a written verdict on two responses, in both orders; what cannot be read is counted
programs     unit tests, in the sandbox
pairwise     pairwise_reward: a reward model that reads two responses at once
composite    Composite: a weighted sum of judges, as they are, z-scored or ranked
people       People, who answer with `prefine label`; asks_people
users        a function of one's own, by file and name
followups    follow_ups: how likely pleased and displeased users are to speak next
citations    Citations: cited statutes against a database; statute_relevance, legal_truth
referenced   referenced: a judge shown a reference that the policy never sees; repeated: asked several times
overlap      Words, Semantics: ROUGE and a BERTScore against a reference in the row
statements   Statements: must-have statements entailed, others contradicted
annotators   people to practise on, made from a gold judge
polls        Polled (several votes a comparison), zermelo (strengths from wins)
flags        Flagged: yes-or-no labels from scores, for factuality
tagged       Tagged: right, wrong, unreadable, out of form, from tags around thought and answer

``find("length:words")`` gives a judge by its name on the command line, see ``JUDGES``.
"""

from __future__ import annotations

from prefine.judging.anchored import Anchored, Likeness, as_good_as, likeness
from prefine.judging.answers import boxed, final_answer, last_number, same
from prefine.judging.base import Compared, Judge, Scored, spoken_by
from prefine.judging.checks import Keywords, Length, Verifier, Votes, extract_by, verifier, votes
from prefine.judging.choices import Choices, choices
from prefine.judging.classifier import Classifier, Stepped, agreement, classifier, stepped, two_sided
from prefine.judging.compared import BradleyTerryTable, WinRates
from prefine.judging.composite import Composite, composite
from prefine.judging.dropout import DropoutJudge, dropout
from prefine.judging.estimates import Estimate, estimate
from prefine.judging.followups import FollowUps, follow_ups
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
from prefine.judging.options import OptionChoice, OptionScore, option_choice, option_score
from prefine.judging.pairwise import PairwiseReward, pairwise_reward
from prefine.judging.people import People, asks_people, people
from prefine.judging.per_token import PerToken, per_token
from prefine.judging.programs import Programs, programs
from prefine.judging.teachers import Likelihood, Mixed, likelihood, teacher
from prefine.judging.thoughts import Consistent, Outcome, Repetition, consistent, outcome, repetition
from prefine.judging.users import EachResponse, user_judge
from prefine.judging.verdicts import Verdicts, verdicts

__all__ = [
    "HELP",
    "JUDGES",
    "Anchored",
    "BradleyTerryTable",
    "Choices",
    "Classifier",
    "Compared",
    "Composite",
    "Consistent",
    "DropoutJudge",
    "EachResponse",
    "Estimate",
    "FollowUps",
    "ImplicitReward",
    "Induced",
    "Judge",
    "Keywords",
    "LanguageJudge",
    "Length",
    "Likelihood",
    "Likeness",
    "Mixed",
    "OnDisk",
    "OptionChoice",
    "OptionScore",
    "Outcome",
    "PairwiseReward",
    "People",
    "PerToken",
    "ProcessReward",
    "Programs",
    "Repetition",
    "RewardJudge",
    "Scored",
    "SelfJudge",
    "Stepped",
    "Verdicts",
    "Verifier",
    "Votes",
    "WinRates",
    "YesProbability",
    "agreement",
    "as_good_as",
    "asks_people",
    "boxed",
    "choices",
    "classifier",
    "composite",
    "consistent",
    "dropout",
    "estimate",
    "extract_by",
    "final_answer",
    "find",
    "follow_ups",
    "implicit_reward",
    "induced",
    "language_judge",
    "last_number",
    "likelihood",
    "likeness",
    "option_choice",
    "option_score",
    "outcome",
    "pairwise_reward",
    "people",
    "per_token",
    "process_reward",
    "programs",
    "repetition",
    "reward_model",
    "same",
    "spoken_by",
    "stepped",
    "teacher",
    "two_sided",
    "user_judge",
    "verdicts",
    "verifier",
    "votes",
    "yes_judge",
]
