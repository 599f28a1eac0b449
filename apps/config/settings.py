"""All settings, grouped, read from the environment. docs/operating.md documents each variable.

Without any variable Sagascope runs on its own embedded PostgreSQL and Redis in the data folder; `DATABASE_URL` and
`REDIS_URL` replace them, by the same code path.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from apps.lib import embedded

BASE_DIR = Path(__file__).resolve().parent.parent.parent


def _flag(name: str, default: bool = False) -> bool:
    return os.environ.get(name, str(default)).strip().lower() in {"1", "true", "yes", "on"}


def _names(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


# --- data folder and servers --------------------------------------------------------------------------------------

SAGASCOPE_DATA = Path(os.environ.get("SAGASCOPE_DATA", BASE_DIR / ".sagascope")).resolve()
_addresses = embedded.addresses(SAGASCOPE_DATA)
DATABASE_URL = os.environ.get("DATABASE_URL") or _addresses.database_url
REDIS_URL = os.environ.get("REDIS_URL") or _addresses.redis_url


def _database(url: str) -> dict:
    """Django's connection settings of a `postgresql://user:password@host:port/name?host=…&sslmode=…` URL."""
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "sagascope",
        "USER": unquote(parts.username or "postgres"),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", None) or parts.hostname or "",
        "PORT": str(parts.port or query.pop("port", "")),
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {"connect_timeout": 5, "application_name": "sagascope", **query},
    }


DATABASES = {"default": _database(DATABASE_URL)}
#: A pooler in transaction mode stands before it and follows prepared statements: PgBouncer from 1.21 on.
DATABASE_POOLER_PREPARES = _flag("DATABASE_POOLER_PREPARES")
#: A streaming replica, for heavy reads; "" = there is none. Used while it is at most so many seconds behind.
DATABASE_REPLICA_URL = os.environ.get("DATABASE_REPLICA_URL", "")
DATABASE_REPLICA_MAX_LAG_SECONDS = float(os.environ.get("DATABASE_REPLICA_MAX_LAG_SECONDS", 5))
if DATABASE_REPLICA_URL:
    # Tests of a whole project see the same data by either name.
    DATABASES["replica"] = {**_database(DATABASE_REPLICA_URL), "TEST": {"MIRROR": "default"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- who may talk to us -------------------------------------------------------------------------------------------


def _secret_key() -> str:
    """SECRET_KEY from the environment, else the data folder's own, made by `manage.py up`; else one for this run."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    kept = SAGASCOPE_DATA / "secret_key"
    try:
        return kept.read_text().strip()
    except OSError:
        return secrets.token_urlsafe(48)


SECRET_KEY = _secret_key()
SECRET_KEY_FALLBACKS = _names("SECRET_KEY_FALLBACKS")
#: Keys for stored secrets, newest first; without any, SECRET_KEY encrypts them.
ENCRYPTION_KEYS = _names("ENCRYPTION_KEYS")
DEBUG = _flag("DEBUG")
ALLOWED_HOSTS = _names("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = _names("CSRF_TRUSTED_ORIGINS")
#: Where people reach Sagascope: every message that it sends links there.
PUBLIC_URL = os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000").rstrip("/")
_IS_HTTPS = PUBLIC_URL.startswith("https://")

SESSION_COOKIE_SECURE = _IS_HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_NAME = "__Host-session" if _IS_HTTPS else "session"
#: A session ends after so long without a request, and after SESSION_LONGEST_SECONDS at the latest.
SESSION_COOKIE_AGE = int(os.environ.get("SESSION_IDLE_SECONDS", 14 * 24 * 3600))
SESSION_LONGEST_SECONDS = int(os.environ.get("SESSION_LONGEST_SECONDS", 30 * 24 * 3600))
SESSION_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"
CSRF_COOKIE_SECURE = _IS_HTTPS
CSRF_COOKIE_NAME = "__Host-csrf" if _IS_HTTPS else "csrf"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _IS_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _IS_HTTPS
_TRUSTS_PROXY = _flag("TRUST_PROXY")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _TRUSTS_PROXY else None
# Only pages are sent on to https, and only where the scheme that people used can be known. A program that posts in the
# clear must notice.
SECURE_SSL_REDIRECT = _IS_HTTPS and _TRUSTS_PROXY
SECURE_REDIRECT_EXEMPT = [r"^api/", r"^v1/", r"^healthz$", r"^readyz$", r"^metrics$"]
SILENCED_SYSTEM_CHECKS = [
    # Whether browsers shall ship the domain in their preload lists is for whoever owns the domain to say.
    "security.W021",
]
X_FRAME_OPTIONS = "DENY"

# --- accounts -----------------------------------------------------------------------------------------------------

LOGIN_URL = "web:login"
LOGIN_REDIRECT_URL = "web:overview"
LOGOUT_REDIRECT_URL = "web:login"
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
#: What must hold over all web processes lies in Redis (limits on guessing), everything else in each one's memory.
CACHES = {"default": {"BACKEND": "apps.lib.shared_limits.LimitsCache", "LOCATION": REDIS_URL}}
ACCOUNT_ADAPTER = "apps.web.accounts.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_UNIQUE_EMAIL = False
#: Wrong passwords of one name from one address, and all of one address; a stranger cannot lock somebody else out.
ACCOUNT_RATE_LIMITS = {
    "login_failed": "5/15m/key,50/15m/ip",
    "reauthenticate": "10/15m/user",
    "reset_password": "3/h/key,20/h/ip",
}
#: Seconds for which a link for a forgotten password works.
PASSWORD_RESET_TIMEOUT = 3600
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
#: Addresses of mail say nothing about who somebody is here: accounts are made by invitation.
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_TOTP_ISSUER = "Sagascope"
MFA_TOTP_TOLERANCE = 1
MFA_ADAPTER = "apps.web.accounts.adapters.SecondFactorAdapter"
#: Nobody who signs in by password sees anything before they have set up a second factor.
REQUIRE_SECOND_FACTOR = _flag("REQUIRE_SECOND_FACTOR")
#: Security keys ask for https, except at a trial on this machine.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not _IS_HTTPS
USERSESSIONS_ADAPTER = "apps.web.accounts.adapters.SessionsAdapter"
SOCIALACCOUNT_ADAPTER = "apps.web.accounts.adapters.SingleSignOnAdapter"
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_OPENID_CONNECT_URL_PREFIX = "sign-on"
#: Single sign-on by OpenID Connect: its issuer, as in `https://sso.example.org/realms/acme`.
OIDC_ISSUER = os.environ.get("OIDC_ISSUER", "").rstrip("/")
OIDC_NAME = os.environ.get("OIDC_NAME", "single sign-on")
#: People are known by issuer and subject, so the provider's own id says who the issuer is.
OIDC_ID = re.sub(r"[^A-Za-z0-9.-]+", "-", OIDC_ISSUER.partition("://")[2])
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": OIDC_ID,
                "name": OIDC_NAME,
                "client_id": os.environ.get("OIDC_CLIENT_ID", ""),
                "secret": os.environ.get("OIDC_CLIENT_SECRET", ""),
                "settings": {"server_url": OIDC_ISSUER},
            }
        ]
        if OIDC_ISSUER
        else [],
    }
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 8}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "apps.web.accounts.passwords.WordsOfContextValidator"},
]

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "font-src": ["'self'"],
        "manifest-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

#: Which sites may show an embedded timeline (`/embed/…`) in a frame, as CSP sources: "https://wiki.example.com".
EMBED_FRAME_ANCESTORS = ["'self'", *_names("EMBED_FRAME_ANCESTORS")]

# --- the application ----------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "channels",
    "csp",
    "django_htmx",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "apps.config",
    "apps.projects",
    "apps.sagas",
    "apps.dlq",
    "apps.ingest",
    "apps.alerts",
    "apps.web",
    "apps.api",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "apps.config.static_files.StaticFilesMiddleware",
    "apps.config.security.headers_middleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "apps.web.accounts.sessions.session_middleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "apps.config.auditing.audit_middleware",
    "apps.config.replica_reads.replica_middleware",
]

ROOT_URLCONF = "apps.config.urls"
ASGI_APPLICATION = "apps.config.asgi.application"
#: Our API has no trailing slashes and never redirects a POST.
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "apps.web.context.shell",
            ],
        },
    }
]

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = Path(os.environ.get("STATIC_ROOT", BASE_DIR / "staticfiles"))
#: Without a `collectstatic` (development, demo) files are served straight from where they lie.
WHITENOISE_USE_FINDERS = not STATIC_ROOT.exists()
#: Then also look again at each request, so that an edited file is served as it is.
WHITENOISE_AUTOREFRESH = DEBUG or WHITENOISE_USE_FINDERS

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

# --- ingest limits (published in OpenAPI) ---------------------------------------------------------------------------

INGEST_MAX_BODY_BYTES = int(os.environ.get("INGEST_MAX_BODY_BYTES", 5 * 1024 * 1024))
INGEST_MAX_OTLP_BODY_BYTES = int(os.environ.get("INGEST_MAX_OTLP_BODY_BYTES", 20 * 1024 * 1024))
INGEST_MAX_HISTORY_BYTES = int(os.environ.get("INGEST_MAX_HISTORY_BYTES", 64 * 1024 * 1024))
INGEST_MAX_EVENT_BYTES = int(os.environ.get("INGEST_MAX_EVENT_BYTES", 1024 * 1024))
INGEST_MAX_ITEMS = int(os.environ.get("INGEST_MAX_ITEMS", 1000))
#: Requests of one project that one web process has in hand at once; more are told to wait (429).
INGEST_MAX_REQUESTS_PER_PROJECT = int(os.environ.get("INGEST_MAX_REQUESTS_PER_PROJECT", 512))
#: Events a second that one web process takes of one source; 0 = as many as it can.
INGEST_EVENTS_PER_SECOND = float(os.environ.get("INGEST_EVENTS_PER_SECOND", 0))
#: Processes that decode and record for each web process, in which HTTP stays; 0 = the web process does it itself.
INGEST_RECORDERS = int(
    os.environ.get("INGEST_RECORDERS", min(len(os.sched_getaffinity(0)), 4) if hasattr(os, "sched_getaffinity") else 2)
)
#: Threads in which a web process answers pages and the API, each with a connection; see `apps.config.page_threads`.
WEB_THREADS = max(1, int(os.environ.get("WEB_THREADS", 16)))
DATA_UPLOAD_MAX_MEMORY_SIZE = max(INGEST_MAX_OTLP_BODY_BYTES, INGEST_MAX_HISTORY_BYTES) + 1024
#: Hosts beside Amazon's own that may sign SNS messages and confirm subscriptions: a LocalStack, say. `host[:port]`.
SNS_HOSTS = [host for host in os.environ.get("SNS_HOSTS", "").split(",") if host]
#: How long one partition of events is filled before the next begins; retention drops whole partitions.
PARTITION_DAYS = int(os.environ.get("PARTITION_DAYS", 7))

# --- live pages: ticks only, none of which may be needed ------------------------------------------------------------

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL], "prefix": "sagascope"},
    }
}

# --- Celery: detection, delivery, probes, retention ------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
#: A task whose worker is killed runs again elsewhere: every task is idempotent, judged against PostgreSQL.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 120,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}
CELERY_TASK_TIME_LIMIT = 600
CELERY_TASK_SOFT_TIME_LIMIT = 540
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

# --- mail and outgoing HTTP ------------------------------------------------------------------------------------------

EMAIL_BACKEND = os.environ.get(
    "EMAIL_BACKEND",
    "django.core.mail.backends.smtp.EmailBackend"
    if os.environ.get("EMAIL_HOST")
    else "apps.alerts.receivers.logged_mail.EmailBackend",
)
#: Without a server, mails are only lines of the log.
SENDS_MAIL = bool(os.environ.get("EMAIL_HOST") or os.environ.get("EMAIL_BACKEND"))
EMAIL_HOST = os.environ.get("EMAIL_HOST", "localhost")
EMAIL_PORT = int(os.environ.get("EMAIL_PORT", 25))
EMAIL_HOST_USER = os.environ.get("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = os.environ.get("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = _flag("EMAIL_USE_TLS")
EMAIL_TIMEOUT = 15
DEFAULT_FROM_EMAIL = os.environ.get("DEFAULT_FROM_EMAIL", "Sagascope <sagascope@localhost>")
#: Called once a minute while all is well with us; "" = nobody watches the watcher.
HEARTBEAT_URL = os.environ.get("HEARTBEAT_URL", "")
#: Networks that outgoing webhooks may reach although they are private, e.g. "10.1.0.0/16,127.0.0.1/32".
WEBHOOK_ALLOWED_NETWORKS = _names("WEBHOOK_ALLOWED_NETWORKS")

# --- logs -----------------------------------------------------------------------------------------------------------

LOG_FORMAT = os.environ.get("LOG_FORMAT", "text")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "apps.lib.telemetry.JsonFormatter"},
        "text": {"()": "apps.lib.telemetry.TextFormatter"},
    },
    "filters": {"one_line": {"()": "apps.config.errors.OneLine"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["one_line"]}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "ERROR"},
        "httpx": {"level": "WARNING"},
    },
}
