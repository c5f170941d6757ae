"""What a user may say next: ten pleased and ten displeased utterances for each of six sides of helpfulness.

The sides are those of Zhang et al. (arXiv 2409.13948): understanding, relevance, correctness, engagingness,
informativeness and following instructions. The sentences are ours. ``SHORT`` has a few plain
ones that small models know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Utterances:
    """Follow-ups of one kind: pleased and displeased ones."""

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


_HELPFULNESS: Mapping[str, tuple[str, str]] = {
    "understanding": (
        "You understood me perfectly.|Yes, that is what I meant.|You got exactly what I was asking.|"
        "I like how well you see my problem.|You read my question correctly.|Right, you know what I am after.|"
        "You grasped the point at once.|That shows you followed what I said.|You saw what I need.|"
        "Good, you understand my situation.",
        "You did not understand me.|No, that is not what I meant.|You missed the point of my question.|"
        "You do not seem to see my problem.|You misread my question.|I think you confused me with somebody else.|"
        "You have not grasped what I want.|Did you even follow what I said?|You took my words the wrong way.|"
        "You do not understand my situation.",
    ),
    "relevance": (
        "That answers my question.|This is just what I was asking about.|That is right on topic.|"
        "Everything you say here is to the point.|That is exactly the information I was looking for.|"
        "Thanks for keeping to my question.|This fits my question well.|That is what I wanted to know.|"
        "All of this matters for what I asked.|You stayed on the subject, thanks.",
        "That does not answer my question.|This is not what I was asking about.|That is off topic.|"
        "What you say here has nothing to do with it.|That is not the information I was looking for.|"
        "Please keep to my question.|This does not fit my question at all.|That is not what I wanted to know.|"
        "None of this matters for what I asked.|Why did you change the subject?",
    ),
    "correctness": (
        "That is correct.|You are right about that.|I checked it, and it is true.|That works, thank you.|"
        "The facts you give are right.|That is accurate.|Yes, that agrees with what I know.|"
        "Your reasoning is sound.|There is no mistake in this.|That is the right solution.",
        "That is wrong.|You are mistaken about that.|I checked it, and it is not true.|That does not work.|"
        "The facts you give are wrong.|That is inaccurate.|No, that contradicts what I know.|"
        "Your reasoning is flawed.|There is a mistake in this.|That is not the right solution.",
    ),
    "engagingness": (
        "That was a pleasure to read.|How interesting, tell me more.|I enjoy talking with you.|"
        "You make this subject come alive.|That was fun, let us go on.|I could listen to you for hours.|"
        "You have made me curious.|What a lovely way to put it.|I am hooked, what comes next?|"
        "It is nice to chat with you.",
        "That was tedious to read.|This is boring, let us stop.|I do not enjoy talking with you.|"
        "You make this subject sound dull.|That was no fun at all.|I have lost interest.|"
        "You sound like a machine.|What a dry way to put it.|I would rather talk about something else.|"
        "It is tiring to chat with you.",
    ),
    "informativeness": (
        "I learned a lot from this.|Thanks for all the details.|That is very informative.|"
        "You explained it thoroughly.|Now I know all I need.|Those examples were useful.|"
        "That told me something new.|You covered everything I wondered about.|Your answer is full of useful points.|"
        "That gives me plenty to work with.",
        "I learned nothing from this.|You left out all the details.|That is not informative.|"
        "You hardly explained it.|I still do not know what I need.|Some examples would have been useful.|"
        "That told me nothing new.|You left most of my questions open.|Your answer is empty of useful points.|"
        "That gives me nothing to work with.",
    ),
    "following-instructions": (
        "You did exactly as I asked.|You followed my instructions well.|That is the format I wanted.|"
        "Perfect, you kept to all my conditions.|You did everything on my list.|Thanks for doing it my way.|"
        "It has just the length I asked for.|You respected what I told you.|Every step was done as requested.|"
        "That meets all my requirements.",
        "You did not do as I asked.|You ignored my instructions.|That is not the format I wanted.|"
        "No, you broke one of my conditions.|You left out things on my list.|I told you to do it differently.|"
        "It does not have the length I asked for.|You disregarded what I told you.|You skipped steps that I requested.|"
        "That does not meet my requirements.",
    ),
}

HELPFULNESS = tuple(
    Utterances(name, tuple(good.split("|")), tuple(bad.split("|"))) for name, (good, bad) in _HELPFULNESS.items()
)

PLEASED = ("Thank you.", "That helps a lot.", "Great answer.", "Exactly what I needed.")
DISPLEASED: Mapping[str, str] = {
    "dangerous": "That is dangerous.",
    "rude": "That was rude.",
    "evasive": "That does not answer my question.",
    "wrong": "That is wrong.",
    "long": "Get to the point.",
}
"""Defect -> what a user says of it."""

SHORT = (Utterances("short", PLEASED, tuple(DISPLEASED.values())),)
