"""Secrets stay in the environment: what looks like one is taken out of every text that leaves the process.

Two nets. The values of environment variables whose name says what they are (a word of the name is KEY, TOKEN,
SECRET, PASSWORD, ...), in the spellings they travel in (plain, JSON, URL). And texts that have the form of a
well-known key, wherever they came from.

>>> redact("Authorization: Bearer abcdef0123456789")
'Authorization: Bearer [redacted]'
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus

WORDS = frozenset({
    "KEY", "KEYS", "APIKEY", "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "PASSWD",
    "PASSPHRASE", "PASS", "PWD", "CREDENTIAL", "CREDENTIALS", "AUTH", "BEARER", "COOKIE", "PAT", "DSN",
})  # fmt: skip
"""Words of a variable's name that say "secret". Whole words: TOKENIZERS_PARALLELISM is not one."""

HARMLESS = frozenset({"PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY"})
SHORTEST = 6
"""Values shorter than this are left alone: replacing every "1" or "yes" would make logs unreadable."""

_PLAIN_VALUES = frozenset({"true", "false", "none", "null", "disabled", "enabled", "default"})
_FORMS = (
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\1\2[redacted]"),
    (re.compile(r"(?i)([?&](?:api[_-]?key|key|token|access_token|password)=)[^&\s\"']+"), r"\1[redacted]"),
    (re.compile(r"(\w://[^/\s:@]+:)[^/\s@]+(@)"), r"\1[redacted]\2"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), "[redacted]"),
    (re.compile(r"\b(?:hf|ghp|gho|ghs|glpat|xoxb|xoxp)[_-][A-Za-z0-9_-]{16,}"), "[redacted]"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "[redacted]"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*KEY-----", re.S),
        "[redacted]",
    ),
)


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable holds a secret: its name says so, and its value is worth hiding."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    named = bool(words & WORDS) or name.upper().endswith(("APIKEY", "TOKEN", "SECRET", "PASSWORD"))
    return (
        named
        and name.upper() not in HARMLESS
        and len(value.strip()) >= SHORTEST
        and value.strip().lower() not in _PLAIN_VALUES
    )


def secret_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name -> value of the environment variables that look like secrets."""
    there = os.environ if environment is None else environment
    return {name: value for name, value in there.items() if looks_secret(name, value)}


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without secrets: ``[NAME]`` for the value of a variable, ``[redacted]`` for a known form.

    >>> redact("sent 'hunter22' to the server", {"DB_PASSWORD": "hunter22"})
    "sent '[DB_PASSWORD]' to the server"
    """
    found = [
        (spelling, name) for name, value in secret_variables(environment).items() for spelling in _spellings(value)
    ]
    for spelling, name in sorted(found, key=lambda pair: -len(pair[0])):
        text = text.replace(spelling, f"[{name}]")
    for form, replacement in _FORMS:
        text = form.sub(replacement, text)
    return text


def is_clean(text: str) -> bool:
    """Whether ``redact`` would leave the text as it is."""
    return redact(text) == text


class Redacting(logging.Filter):
    """A logging filter that redacts messages and tracebacks: ``handler.addFilter(Redacting())``."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and record.exc_text is None:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def _spellings(value: str) -> Iterator[str]:
    value = value.strip()
    spellings = {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        quote(value, safe=""),
        quote_plus(value),
        base64.b64encode(value.encode(errors="surrogateescape")).decode(),
    }
    yield from (s for s in spellings if len(s) >= SHORTEST)
