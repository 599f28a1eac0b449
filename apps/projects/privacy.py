"""What is taken out of a source's events before they are stored, and who may see it again.

Rules are a line each: `remove key customer name`, `hash key email`, `hash pattern \\b\\d{11}\\b`. They hold for what
comes within `tokens.CACHE_SECONDS` of being saved, never for what is stored already.

A project may let operators or admins *reveal* what was taken out of a payload. Only then is it kept: sealed within its
event by the project's own key, so that it goes with the event wherever that is erased. Switching it off destroys the
key, and with it everything that was sealed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from django.db import transaction

from apps.lib import secrets
from apps.lib.redaction import Policy, compiled, normal_key
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Project, Role, Source

logger = logging.getLogger(__name__)

MOST_RULES = 100
MOST_CHARACTERS = 300
#: Longer originals are not kept; they are removed all the same.
MOST_SEALED_CHARACTERS = 16_384
#: Who may reveal, as a project says it.
REVEALERS = ("", Role.OPERATOR.value, Role.ADMIN.value)

Treatment = Literal["remove", "hash"]
Place = Literal["key", "pattern"]


class RedactionRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule: what to do with the values of a key, or with text that a pattern (RE2) finds."""

    action: Treatment
    of: Place
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_CHARACTERS)]


class RuleError(ValueError):
    """A rule cannot be what was given; the message names its line and says why."""


def read_rules(text: str) -> list[RedactionRule]:
    """The rules of a form's text, a line each; empty lines are left out. Raises RuleError."""
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        action, _, rest = line.strip().partition(" ")
        of, _, what = rest.strip().partition(" ")
        if action not in {"remove", "hash"} or of not in {"key", "pattern"}:
            raise RuleError(f"line {number}: say remove or hash, then key or pattern, then which")
        rules.append(_checked(RedactionRule(action, of, what.strip()), f"line {number}"))  # type: ignore[arg-type]
    return _bounded(rules)


def check_rules(rules: Sequence[RedactionRule]) -> list[RedactionRule]:
    """Rules of a call, checked the same way. Raises RuleError."""
    return _bounded([_checked(rule, f"rule {number}") for number, rule in enumerate(rules, 1)])


def show_rules(source: Source) -> str:
    """The rules of a source as text, a line each."""
    return "\n".join(f"{rule.action} {rule.of} {rule.text}" for rule in rules_of(source))


def rules_of(source: Source) -> list[RedactionRule]:
    """The rules of a source."""
    return msgspec.convert(source.redaction, list[RedactionRule])


@transaction.atomic
def save_rules(source: Source, rules: Sequence[RedactionRule]) -> None:
    """Keep these rules instead of those before, and see that the project has a key to hash with."""
    project = Project.objects.select_for_update().get(pk=source.project_id)
    if not project.hash_key and any(rule.action == "hash" for rule in rules):
        project.hash_key = secrets.new_key()
        project.save(update_fields=["hash_key"])
    source.redaction = msgspec.to_builtins(list(rules))
    source.save(update_fields=["redaction"])


@transaction.atomic
def set_revealing(project_id: int, reveals_to: str) -> None:
    """Let these roles and those above reveal from now on; "" = nobody, which destroys what was kept for it."""
    if reveals_to not in REVEALERS:
        raise ValueError(f"revealing is for one of {', '.join(filter(None, REVEALERS))} or for nobody")
    project = Project.objects.select_for_update().get(pk=project_id)
    project.reveals_to = reveals_to
    if not reveals_to:
        project.seal_key = ""
    elif not project.seal_key:
        project.seal_key = secrets.new_key()
    project.save(update_fields=["reveals_to", "seal_key"])


def reveal(project: Project, sealed: str, bound_to: str) -> dict[str, Any]:
    """What was taken out of a payload, by the place where it lay. Raises UnreadableSecretError."""
    if not project.seal_key:
        raise UnreadableSecretError("the key of what was sealed is gone")
    text = secrets.unseal(secrets.key_of(project.seal_key), sealed, bound_to)
    values: dict[str, Any] = msgspec.json.decode(text)
    return values


# --- what ingest and dead letters apply -------------------------------------------------------------------------------


class _Portable(msgspec.Struct, frozen=True):
    rules: list[RedactionRule]
    hash_key: str
    seal_key: str


def portable(source: Source) -> str:
    """All that decides what is stored of a source's events, as text that other processes understand; "" = nothing."""
    project = source.project
    if not source.redaction and not project.reveals_to:
        return ""
    return _text(rules_of(source), project)


def portable_of_source(source_id: int) -> str:
    """The same by the source's id; "" when there is none. Raises DatabaseError."""
    source = Source.objects.select_related("project").filter(pk=source_id).first()
    return "" if source is None else portable(source)


def portable_of_project(project_id: int) -> str:
    """What holds for what nobody can say the source of (dead letters): the rules of all sources, nothing sealed."""
    sources = list(Source.objects.select_related("project").filter(project_id=project_id).exclude(redaction=[]))
    rules = [rule for source in sources for rule in rules_of(source)]
    return _text(rules, sources[0].project, seals=False) if sources else ""


def _text(rules: list[RedactionRule], project: Project, *, seals: bool = True) -> str:
    seal_key = project.seal_key if seals and project.reveals_to else ""
    return msgspec.json.encode(_Portable(rules, project.hash_key, seal_key)).decode()


@lru_cache(maxsize=256)
def policy_of(portable_text: str) -> Policy | None:
    """The policy that `portable` described. A key that cannot be read is no reason to store more: values go."""
    if not portable_text:
        return None
    given = msgspec.json.decode(portable_text, type=_Portable)
    seal_key = _key(given.seal_key)
    # Of several rules for one key the first holds.
    keys = {normal_key(rule.text): rule.action == "hash" for rule in reversed(given.rules) if rule.of == "key"}
    patterns = [(rule.text, rule.action == "hash") for rule in given.rules if rule.of == "pattern"]

    def seal(bound_to: str, taken: Mapping[str, Any]) -> str:
        return secrets.seal(seal_key, _fitting(taken), bound_to)

    return Policy(keys, patterns, hash_key=_key(given.hash_key), seal=seal if seal_key else None)


def _key(token: str) -> bytes:
    try:
        return secrets.key_of(token) if token else b""
    except UnreadableSecretError as error:
        logger.error("a key of redaction cannot be read, values are removed instead: %s", error)
        return b""


def _fitting(taken: Mapping[str, Any]) -> str:
    """As many of the values as fit, as JSON."""
    text = msgspec.json.encode(dict(taken)).decode()
    if len(text) <= MOST_SEALED_CHARACTERS:
        return text
    kept: dict[str, Any] = {}
    room = MOST_SEALED_CHARACTERS
    for place, value in taken.items():
        size = len(msgspec.json.encode({place: value}))
        if size <= room:
            kept[place] = value
            room -= size
    return msgspec.json.encode(kept).decode()


def _checked(rule: RedactionRule, where: str) -> RedactionRule:
    if not rule.text.strip() or len(rule.text) > MOST_CHARACTERS or "\0" in rule.text:
        raise RuleError(f"{where}: a {rule.of} is text of 1 to {MOST_CHARACTERS} characters")
    if rule.text != rule.text.strip() or len(rule.text.splitlines()) > 1:
        # As a form shows and reads it, such text would be another rule, or two.
        raise RuleError(f"{where}: a {rule.of} is one line, without blanks at its ends; in patterns write \\n, [ ]")
    if rule.of == "key":
        if not normal_key(rule.text):
            raise RuleError(f"{where}: a key has letters or digits")
        return rule
    try:
        pattern = compiled(rule.text)
    except ValueError as error:
        raise RuleError(f"{where}: this is no pattern: {error}") from None
    if pattern.search("") is not None:
        raise RuleError(f"{where}: this pattern finds nothing at all, everywhere")
    return rule


def _bounded(rules: list[RedactionRule]) -> list[RedactionRule]:
    if len(rules) > MOST_RULES:
        raise RuleError(f"a source may have {MOST_RULES} rules")
    return rules
