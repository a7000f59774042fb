"""What every test shares: generated inputs that are the same in every run, no need of speed, and Ctrl-C."""

import signal

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
# A shell that starts the tests in the background makes them ignore it, and with them all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
