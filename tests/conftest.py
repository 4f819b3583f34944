"""What every test relies on, whatever started the tests: hypothesis' examples, the umask, and signals that do what they do by default."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("anqfs", deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("anqfs")

os.umask(0o22)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
    if signal.getsignal(_number) is signal.SIG_IGN:  # a shell gives its background jobs an ignored SIGINT; programs inherit that
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)
