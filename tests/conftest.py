"""Fixtures for all tests."""

from hub_server import commit, hub_server, no_waiting

__all__ = ["commit", "hub_server", "no_waiting"]
