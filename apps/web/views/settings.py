"""Settings of a project: the project itself, its members, its tokens. Everybody may look, admins change."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from apps.lib import micros
from apps.projects.models import Membership, Project, Role, Scope
from apps.projects.privacy import set_revealing
from apps.projects.tokens import create_token, revoke_token
from apps.sagas.finding_due import judge_anew
from apps.sagas.learned_deadlines import set_factor
from apps.web.access import SESSION_KEY, project_view, projects_of
from apps.web.accounts import sessions
from apps.web.forms import NewMemberForm, NewProjectForm, ProjectForm, TokenForm, row_id
from apps.web.live import recheck_user

SECTIONS = (
    ("web:settings", "Project"),
    ("web:settings_members", "Members"),
    ("web:settings_invitations", "Invitations"),
    ("web:settings_tokens", "Tokens"),
    ("web:settings_receivers", "Receivers"),
    ("web:settings_rules", "Rules"),
    ("web:settings_silences", "Silences"),
    ("web:settings_projects", "Projects"),
    ("web:settings_storage", "Storage"),
    ("web:settings_audit", "Audit log"),
    ("web:settings_account", "Account"),
)

#: What findings are judged by.
_JUDGED_BY = {"skew_tolerance_seconds", "orphan_grace_seconds"}


def page(request: HttpRequest, template: str, status: int = 200, **context: Any) -> HttpResponse:
    """Render one section beside the list of all."""
    return render(request, template, {"sections": SECTIONS, **context}, status=status)


@project_view(change_role=Role.ADMIN)
def project(request: HttpRequest) -> HttpResponse:
    """Name, retention, tolerances, and what learned deadlines allow."""
    current: Project = request.project  # type: ignore[attr-defined]
    # The form writes into the object that it is given, also when it is refused: the page's own must stay as it is.
    instance = Project.objects.get(pk=current.pk)
    form = ProjectForm(request.POST or None, instance=instance, initial={"reveals_to": current.reveals_to})
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            # Only what the form has: keys and revision are others' and may have changed meanwhile.
            form.save(commit=False).save(update_fields=ProjectForm.Meta.fields)
            if _JUDGED_BY.intersection(form.changed_data):
                judge_anew(current.pk, micros.now())
            if form.cleaned_data["reveals_to"] != current.reveals_to:
                set_revealing(current.pk, form.cleaned_data["reveals_to"])
            if form.cleaned_data["deadline_factor"] != current.deadline_factor:
                set_factor(current.pk, None, form.cleaned_data["deadline_factor"])
        messages.success(request, "Saved.")
        return redirect("web:settings")
    return page(request, "web/settings_project.html", form=form)


@project_view(change_role=Role.ADMIN)
def members(request: HttpRequest) -> HttpResponse:
    """Who may see the project, and as what."""
    current: Project = request.project  # type: ignore[attr-defined]
    action = request.POST.get("action", "")
    adding = request.POST if action == "add" else None
    form = NewMemberForm(adding, may_make_accounts=request.user.is_superuser, initial={"role": Role.VIEWER})
    if action == "add" and form.is_valid() and _add_member(current, form):
        messages.success(request, f"{form.account()} is now {form.cleaned_data['role']} of {current.name}.")
        return redirect("web:settings_members")
    if action == "end_sessions":
        return _end_sessions(request, current)
    if action in {"role", "remove"}:
        _change_member(request, current, action)
        return redirect("web:settings_members")
    listed = current.memberships.select_related("user").order_by("user__username")
    return page(request, "web/settings_members.html", members=listed, roles=Role.choices, form=form)


def _end_sessions(request: HttpRequest, current: Project) -> HttpResponse:
    """Sign a member out everywhere. For administrators: somebody's sessions are not one project's affair."""
    if not request.user.is_superuser:
        return render(request, "web/forbidden.html", {"needed": "administrator", "held": request.role}, status=403)  # type: ignore[attr-defined]
    member = get_object_or_404(current.memberships, pk=row_id(request.POST.get("member")))
    ended = sessions.end_all_of(member.user)
    messages.success(request, f"{member.user} is signed out: {ended} {'session' if ended == 1 else 'sessions'} ended.")
    return redirect("web:settings_members")


@transaction.atomic
def _add_member(current: Project, form: NewMemberForm) -> bool:
    """True unless the person is a member already, which the form then says."""
    role = form.cleaned_data["role"]
    _, is_new = Membership.objects.get_or_create(project=current, user=form.account(), defaults={"role": role})
    if not is_new:
        form.add_error("username", "This person is a member already.")
    return is_new


def _change_member(request: HttpRequest, current: Project, action: str) -> None:
    """Set a role or remove a member, unless nobody would be left to administer the project."""
    with transaction.atomic():
        # The admins are locked: two admins who remove each other at once must not both succeed.
        admins = list(current.memberships.select_for_update().filter(role=Role.ADMIN).values_list("pk", flat=True))
        member = get_object_or_404(current.memberships, pk=row_id(request.POST.get("member")))
        role = request.POST.get("role", "")
        if action == "role" and role not in Role.values:
            messages.error(request, "There is no such role.")
            return
        if admins == [member.pk] and (action == "remove" or role != Role.ADMIN):
            messages.error(request, f"{member.user} is the only admin: make somebody else admin first.")
            return
        if action == "remove":
            member.delete()
            messages.success(request, f"{member.user} is not a member any more.")
        else:
            member.role = role
            member.save(update_fields=["role"])
            messages.success(request, f"{member.user} is now {role}.")
    recheck_user(member.user_id)


@project_view(change_role=Role.ADMIN)
def tokens(request: HttpRequest) -> HttpResponse:
    """Bearer tokens: made here, shown once, revoked here."""
    current: Project = request.project  # type: ignore[attr-defined]
    action = request.POST.get("action", "")
    creating = request.POST if action == "create" else None
    form = TokenForm(creating, project=current)
    context: dict[str, Any] = {"form": form}
    if action == "create" and form.is_valid():
        # Shown in the answer itself and not after a redirect: a secret must not lie in a session.
        data = form.cleaned_data
        context["created"] = create_token(
            current,
            data["scopes"],
            name=data["name"],
            source=data["source"] if Scope.INGEST in data["scopes"] else None,
            created_by=request.user,  # type: ignore[arg-type]
            expires_at=form.expires_at(),
        )
        context["created_opens_ingest"] = Scope.INGEST in data["scopes"]
        context["form"] = TokenForm(project=current)
    elif action == "revoke":
        token = get_object_or_404(current.tokens, pk=row_id(request.POST.get("token")))
        revoke_token(token)
        messages.success(request, f"{token.name} is revoked.")
        return redirect("web:settings_tokens")
    listed = list(current.tokens.select_related("source", "created_by").order_by("revoked_at", "-created_at")[:500])
    present = timezone.now()
    rows = [
        {"token": token, "is_over": bool(token.revoked_at or (token.expires_at and token.expires_at <= present))}
        for token in listed
    ]
    rows.sort(key=lambda row: bool(row["is_over"]))
    chosen = request.POST.getlist("scopes") if creating and "created" not in context else [Scope.INGEST.value]
    return page(
        request,
        "web/settings_tokens.html",
        rows=rows,
        scopes=Scope.choices,
        chosen_scopes=chosen,
        public_url=settings.PUBLIC_URL,
        **context,
    )


@project_view
def projects(request: HttpRequest) -> HttpResponse:
    """The projects that one may see; administrators make new ones."""
    is_administrator = request.user.is_superuser
    if request.method == "POST" and not is_administrator:
        return render(request, "web/forbidden.html", {"needed": "administrator", "held": request.role}, status=403)  # type: ignore[attr-defined]
    form = NewProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            made = form.save()
            Membership.objects.create(
                project=made,
                user=request.user,  # type: ignore[misc]  # signed in
                role=Role.ADMIN,
            )
        request.session[SESSION_KEY] = made.slug
        messages.success(request, f"{made.name} is ready. Connect its first source with a token.")
        return redirect("web:overview")
    return page(request, "web/settings_projects.html", listed=projects_of(request.user), form=form)
