"""Fixtures for all tests."""

import signal

from hub_server import commit, hub_server, no_waiting

__all__ = ["commit", "hub_server", "no_waiting"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands under test inherit that, and are interrupted
