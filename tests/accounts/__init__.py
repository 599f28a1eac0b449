"""Accounts of people: invitations, second factors, sessions, single sign-on."""
