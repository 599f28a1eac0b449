"""Accounts of people: django-allauth by our own rules (no open sign-up), their sessions, what they type to get in."""
