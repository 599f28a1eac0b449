"""The forms of the settings pages. They check what people type; the views do what is asked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.utils import timezone

from apps.projects.models import Project, Role, Scope, Source
from apps.sagas.deadlines import LEAST_FACTOR, MOST_FACTOR

#: Days a token may be valid; "" = for ever.
LIFETIMES = (("", "until it is revoked"), ("1", "1 day"), ("30", "30 days"), ("90", "90 days"), ("365", "1 year"))

#: Who may see what was taken out of payloads.
REVEALERS = (("", "removed for good"), ("admin", "kept for admins"), ("operator", "kept for operators and admins"))

#: Ids of rows fit into a bigint; anything longer names nothing.
_MOST_DIGITS = 18


def row_id(text: str | None) -> int:
    """An id from a hidden field; 0, which names nothing, for anything else."""
    text = text or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else 0


class ProjectForm(forms.ModelForm):
    """What an admin may set of a project. The slug stays: URLs and scripts hold it."""

    class Meta:
        model = Project
        fields = ("name", "skew_tolerance_seconds", "orphan_grace_seconds", "retention_days", "deadline_factor")

    skew_tolerance_seconds = forms.FloatField(min_value=0, max_value=3600)
    orphan_grace_seconds = forms.FloatField(min_value=0, max_value=7 * 86400)
    retention_days = forms.IntegerField(min_value=1, max_value=3650)
    #: Stays as it is when it is not given.
    reveals_to = forms.ChoiceField(choices=REVEALERS, required=False)
    #: Stays as it is when it is not given.
    deadline_factor = forms.FloatField(min_value=LEAST_FACTOR, max_value=MOST_FACTOR, required=False)

    def clean_deadline_factor(self) -> float:
        """What was given, or what holds now."""
        given: float | None = self.cleaned_data["deadline_factor"]
        if given is None and self.add_prefix("deadline_factor") in self.data:
            raise ValidationError("Give a number, such as 3.")
        return self.instance.deadline_factor if given is None else given

    def clean_reveals_to(self) -> str:
        """What was given, or what holds now."""
        given: str = self.cleaned_data["reveals_to"]
        return given if self.add_prefix("reveals_to") in self.data else self.instance.reveals_to


class NewProjectForm(forms.ModelForm):
    """A new project; whoever makes it becomes its admin."""

    class Meta:
        model = Project
        fields = ("name", "slug")


class NewMemberForm(forms.Form):
    """Add somebody who has an account, or make the account with a first password."""

    username = forms.CharField(max_length=150)
    role = forms.ChoiceField(choices=Role.choices)
    password = forms.CharField(required=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}))

    def __init__(self, *args: Any, may_make_accounts: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.may_make_accounts = may_make_accounts
        self.user: Any = None

    def clean(self) -> dict[str, Any]:
        """Find the account, or see that one can be made. Sets `user`, None when it is to be made."""
        cleaned = super().clean() or {}
        users = get_user_model()
        name = cleaned.get("username", "")
        self.user = users.objects.filter(username=name).first()
        if not name or self.errors:
            return cleaned
        if self.user is not None and cleaned.get("password"):
            raise ValidationError("This person has an account already: leave the password empty.")
        if self.user is None and not (self.may_make_accounts and cleaned.get("password")):
            how = (
                " To make one, give a first password." if self.may_make_accounts else " An administrator can make one."
            )
            raise ValidationError(f"There is no account of this name.{how}")
        if self.user is None:
            users.username_validator(name)
            validate_password(cleaned["password"], users(username=name))
        return cleaned

    def account(self) -> Any:
        """The account; made now when there was none."""
        if self.user is None:
            data = self.cleaned_data
            self.user = get_user_model().objects.create_user(data["username"], password=data["password"])
        return self.user


class TokenForm(forms.Form):
    """A new token: what it opens and, for ingest, which source it stands for."""

    name = forms.CharField(max_length=128)
    scopes = forms.MultipleChoiceField(choices=Scope.choices, widget=forms.CheckboxSelectMultiple)
    source = forms.ModelChoiceField(queryset=Source.objects.none(), required=False, empty_label="a new source")
    lifetime = forms.ChoiceField(choices=LIFETIMES, required=False)

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["source"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = project.sources.order_by("name")

    def expires_at(self) -> datetime | None:
        """When it shall end; None for never."""
        days = self.cleaned_data["lifetime"]
        return timezone.now() + timedelta(days=int(days)) if days else None
