"""Models over HTTP and in folders of their own."""

TOKEN = "LIT_BASEREWARD_TOKEN"
"""Environment variable of the bearer token: the server asks for it, clients show it."""
