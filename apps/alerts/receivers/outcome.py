"""What a kind of receiver answers: settings that are fine or not, a message that got through or not."""

from __future__ import annotations

from dataclasses import dataclass


class SettingsError(ValueError):
    """The settings cannot be saved: `problems` says why for each field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


class DeliveryError(Exception):
    """A try failed; the message holds nothing secret. The attributes are all that retry logic looks at."""

    def __init__(
        self,
        message: str,
        *,
        permanent: bool = False,
        gone: bool = False,
        http_status: int | None = None,
        retry_after: float | None = None,
        answer: str = "",
    ) -> None:
        super().__init__(message)
        #: Trying again is pointless.
        self.permanent = permanent
        #: The target asked never to be called again: the receiver is switched off.
        self.gone = gone
        self.http_status = http_status
        #: Seconds that the target asked to wait.
        self.retry_after = retry_after
        #: How the target's answer begins; shown in the log of deliveries once the receiver's secrets are taken out.
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Sent:
    """A try got through."""

    http_status: int | None = None
    #: How the target's answer begins.
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One setting of a kind of receiver, for forms."""

    name: str
    label: str
    help: str = ""
    #: Never shown again once stored.
    is_secret: bool = False
    is_required: bool = True
    #: Several lines.
    is_long: bool = False
    #: (value, words) to choose from; none = free text.
    choices: tuple[tuple[str, str], ...] = ()
