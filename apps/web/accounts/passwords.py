"""What a password must not be made of, beside what Django knows: the words of where it is used."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError

from apps.projects.models import Project

#: Published in docs/security.md.
WORDS = ("sagascope", "saga", "compensation", "dashboard", "password", "admin")
#: Of a password without the words of the context so many characters must be left.
LEAST_LEFT = 6
_SHORTEST_NAME = 4


class WordsOfContextValidator:
    """Refuses a password of which too little is left without the product's words and the names of its projects."""

    def validate(self, password: str, user: Any = None) -> None:
        """Raises ValidationError."""
        left = password.casefold()
        names = Project.objects.order_by("pk").values_list("slug", "name")[:200]
        known = {*WORDS, *(name.casefold() for pair in names for name in pair if len(name) >= _SHORTEST_NAME)}
        for word in sorted(known, key=len, reverse=True):
            left = left.replace(word, "")
        if len(left) < LEAST_LEFT and len(left) < len(password):
            raise ValidationError("Take something that says less of Sagascope and its projects.", code="context")

    def get_help_text(self) -> str:
        """What people are told before."""
        return "Your password must not be made of the names of this product and its projects."
