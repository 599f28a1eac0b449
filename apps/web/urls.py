"""Routes of the pages. Fragments are served by the same routes, to requests of htmx."""

from __future__ import annotations

from django.urls import path, register_converter

from apps.web.views import (
    account,
    alert_rules,
    alert_silences,
    alerting,
    audit_log,
    correlation,
    dead_letter_queues,
    dead_letters,
    density,
    disk_use,
    findings,
    flows,
    forgotten,
    incidents,
    instances,
    joining,
    notices,
    overview,
    revealing,
    search,
    settings,
    sharing,
    source_setup,
    sources,
)


class AnyText:
    """Whatever the senders called it: also with slashes, spaces and line breaks."""

    regex = r"[\s\S]+"

    @staticmethod
    def to_python(value: str) -> str:
        """The text as it is."""
        return value

    @staticmethod
    def to_url(value: str) -> str:
        """The text as it is; `reverse` percent-encodes it."""
        return str(value)


register_converter(AnyText, "any")

app_name = "web"
urlpatterns = [
    path("login", account.login, name="login"),
    path("logout", account.logout, name="logout"),
    path("density", density.choose, name="density"),
    path("forgotten", forgotten.ask, name="forgotten"),
    path("forgotten/<str:number>/<str:token>", forgotten.choose, name="forgotten_choose"),
    path("join/<str:secret>", joining.join, name="join"),
    path("", overview.show, name="overview"),
    path("instances", instances.show, name="instances"),
    path("instances/rows", instances.rows, name="instance_rows"),
    path("instances/complete", instances.complete, name="complete"),
    path("search", search.show, name="search"),
    path("notices", notices.show, name="notices"),
    path("share/<any:correlation_id>", sharing.show, name="share"),
    path("reveal/<any:correlation_id>", revealing.show, name="reveal"),
    path("embed/<str:token>", sharing.embed, name="embed"),
    path("correlations/<any:correlation_id>", correlation.show, name="correlation"),
    path("flows", flows.show_all, name="flows"),
    path("new-flow", flows.new, name="flow_new"),
    path("flows/<any:name>", flows.show, name="flow"),
    path("findings", findings.show_all, name="findings"),
    path("findings/owed", findings.owed, name="owed"),
    path("incidents", incidents.show_all, name="incidents"),
    path("incidents/stuck", incidents.stuck_causes, name="stuck_causes"),
    path("incidents/<int:number>", incidents.show, name="incident"),
    path("dead-letters", dead_letters.show_all, name="dead_letters"),
    path("dead-letters/new", dead_letter_queues.new, name="dead_letter_queue_new"),
    path("dead-letters/queues/<int:queue_id>", dead_letter_queues.edit, name="dead_letter_queue"),
    path("dead-letters/redrives", dead_letters.redrives, name="redrives"),
    path("dead-letters/redrives/<int:number>", dead_letters.redrive, name="redrive"),
    path("sources", sources.show_all, name="sources"),
    path("sources/new", source_setup.new, name="source_new"),
    path("sources/<int:source_id>", source_setup.show, name="source"),
    path("sources/<int:source_id>/rejected", sources.rejected, name="rejected"),
    path("settings", settings.project, name="settings"),
    path("settings/members", settings.members, name="settings_members"),
    path("settings/invitations", joining.invite, name="settings_invitations"),
    path("settings/tokens", settings.tokens, name="settings_tokens"),
    path("settings/receivers", alerting.receivers, name="settings_receivers"),
    path("settings/receivers/<int:receiver_id>", alerting.receiver, name="settings_receiver"),
    path("settings/rules", alert_rules.rules, name="settings_rules"),
    path("settings/rules/new", alert_rules.new_rule, name="settings_rule_new"),
    path("settings/rules/<int:rule_id>", alert_rules.rule, name="settings_rule"),
    path("settings/silences", alert_silences.show, name="settings_silences"),
    path("settings/projects", settings.projects, name="settings_projects"),
    path("settings/storage", disk_use.show, name="settings_storage"),
    path("settings/audit", audit_log.show, name="settings_audit"),
    path("settings/account", account.show, name="settings_account"),
]
