"""Slack, Microsoft Teams and Telegram, each by its own incoming webhook.

Names come from outside, so nothing of a message is ever markup: Slack's plain-text objects and Telegram's messages
without a parse mode read none, and for Teams, whose text blocks always read some Markdown, it is escaped. Nobody is
rung by a name such as `@channel`.

Formats: https://api.slack.com/reference/block-kit/blocks and /messaging/webhooks;
https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook with an Adaptive Card 1.4;
https://core.telegram.org/bots/api#sendmessage
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from apps.alerts.causes import shown
from apps.alerts.messages import Message
from apps.alerts.receivers.outcome import Field, Sent, SettingsError
from apps.alerts.receivers.posting import posted_json
from apps.lib import http

#: Where the bot API of Telegram is.
TELEGRAM = "https://api.telegram.org"
#: A header of Slack and a message of Telegram hold no more.
MAX_HEADER, MAX_BLOCK, MAX_TELEGRAM = 150, 2900, 4000
_BOT_TOKEN = re.compile(r"\d{5,20}:[A-Za-z0-9_-]{20,80}")
_CHAT = re.compile(r"-?\d{1,20}|@[A-Za-z0-9_]{3,64}")
_MENTION = re.compile(r"@(?=\w)")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")
_COLOURS = {"critical": "Attention", "warning": "Warning", "info": "Accent"}
_EMOJI = {"critical": "🔴", "warning": "🟠", "info": "🔵"}


class _ByUrl:
    """What is reached by one secret URL."""

    fields: tuple[Field, ...] = ()

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        url = settings.get("url", "").strip()
        try:
            http.check_url(url)
        except http.RefusedError as error:
            raise SettingsError({"url": str(error)}) from None
        return {"url": url}

    def describe(self, settings: Mapping[str, str]) -> str:
        """The host alone: the rest of such an address is a key."""
        return f"https://{urlsplit(settings['url']).hostname}/…"


class SlackReceiver(_ByUrl):
    """A message with a button, into the channel of an incoming webhook."""

    code = "slack"
    label = "Slack"
    fields: tuple[Field, ...] = (
        Field("url", "Incoming webhook", "https://hooks.slack.com/services/…", is_secret=True),
    )

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        return posted_json(settings["url"], self.body(message))

    def body(self, message: Message) -> dict[str, Any]:
        """What is posted; also what Slack shows in notifications, as `text`, with its three marks escaped."""
        facts = _quiet("\n".join(f"{label}: {value}" for label, value in message.facts))
        buttons = [_slack_button("Open in Sagascope", message.url)]
        if message.runbook_url:
            buttons.append(_slack_button("Runbook", message.runbook_url))
        blocks: list[dict[str, Any]] = [
            {"type": "header", "text": _plain(_quiet(_headline(message)), MAX_HEADER)},
            {"type": "section", "text": _plain(facts or message.severity, MAX_BLOCK)},
            {"type": "actions", "elements": buttons},
        ]
        text = _quiet(_headline(message)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


class TeamsReceiver(_ByUrl):
    """An Adaptive Card, into the channel of a workflow's webhook."""

    code = "teams"
    label = "Microsoft Teams"
    fields: tuple[Field, ...] = (
        Field(
            "url",
            "Webhook of the workflow",
            "made by the template “Post to a channel when a webhook request is received”",
            is_secret=True,
        ),
    )

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        return posted_json(settings["url"], self.body(message))

    def body(self, message: Message) -> dict[str, Any]:
        """What is posted."""
        colour = "Good" if message.is_good_news else _COLOURS.get(message.severity, "Default")
        actions = [{"type": "Action.OpenUrl", "title": "Open in Sagascope", "url": message.url}]
        if message.runbook_url:
            actions.append({"type": "Action.OpenUrl", "title": "Runbook", "url": message.runbook_url})
        title = {"type": "TextBlock", "text": _unmarked(message.subject), "weight": "Bolder", "size": "Medium"}
        facts = [{"title": label, "value": _unmarked(value)} for label, value in message.facts]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [{**title, "wrap": True, "color": colour}, {"type": "FactSet", "facts": facts}],
            "actions": actions,
        }
        kind = "application/vnd.microsoft.card.adaptive"
        return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}


class TelegramReceiver:
    """A message of a bot to a chat, a group or a channel."""

    code = "telegram"
    label = "Telegram"
    fields: tuple[Field, ...] = (
        Field("token", "Token of the bot", "as BotFather gave it, such as 123456:ABC…", is_secret=True),
        Field("chat", "Chat", "the id of a chat or group, or @name of a channel"),
    )

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        token, chat = settings.get("token", "").strip(), settings.get("chat", "").strip()
        if not _BOT_TOKEN.fullmatch(token):
            raise SettingsError({"token": "the token of a bot: digits, a colon and a long word"})
        if not _CHAT.fullmatch(chat):
            raise SettingsError({"chat": "a number such as -1001234567890, or @name of a channel"})
        return {"token": token, "chat": chat}

    def describe(self, settings: Mapping[str, str]) -> str:
        return f"chat {settings['chat']}"

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        body = {
            "chat_id": settings["chat"],
            # Without a parse mode the text is only text; links in it can be followed all the same.
            "text": self.text(message),
            "link_preview_options": {"is_disabled": True},
            "disable_notification": message.severity == "info" or message.is_good_news,
        }
        return posted_json(f"{TELEGRAM}/bot{settings['token']}/sendMessage", body)

    def text(self, message: Message) -> str:
        """Headline, facts, links."""
        links = [message.url, *([f"Runbook: {message.runbook_url}"] if message.runbook_url else [])]
        end = "\n\n" + "\n".join(links)
        lines = "\n".join([_headline(message), "", *(f"{label}: {value}" for label, value in message.facts)])
        return _quiet(lines)[: MAX_TELEGRAM - len(end)] + end


def _headline(message: Message) -> str:
    mark = "🟢" if message.is_good_news else _EMOJI.get(message.severity, "")
    return f"{mark} {message.subject}".strip()


def _slack_button(words: str, url: str) -> dict[str, Any]:
    return {"type": "button", "text": _plain(words, 75), "url": url}


def _plain(text: str, limit: int) -> dict[str, Any]:
    """Text that Slack reads no markup in, and no `:emoji:` either."""
    return {"type": "plain_text", "text": text if len(text) <= limit else text[: limit - 1] + "…", "emoji": False}


def _quiet(text: str) -> str:
    """`@everyone` with a space that nobody sees: a name from outside rings nobody."""
    return _MENTION.sub("@\u200b", text)


def _unmarked(text: str) -> str:
    """Nothing that Teams takes for Markdown or HTML."""
    escaped = _MARKDOWN.sub(r"\\\1", shown(text, 1000).replace("<", "‹").replace("&", "＆"))
    return _quiet(escaped)
