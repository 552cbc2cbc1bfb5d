"""The night: sweep (Tune), train (tasks), score (Data), publish. Imports Ray; never the service."""

import os

# Ray reads these when it is imported: our own log lines take the place of its tables, bars and hints.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# Tune would take Ctrl-C as the end of the sweep and let the night go on with what it has.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
