"""Composition: agents, sessions, the HTTP application, the command line."""
