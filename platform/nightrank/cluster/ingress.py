"""What HAProxy takes off a request before Ray Serve reads it, and the log of requests that it does not send.

Serve 2.60 decodes some headers before any application runs: bytes that are no UTF-8 end in a 500 and a traceback in
the log, a request id of 15 kB in the log and in the answer, and `X-Request-Timeout-Seconds: -1` switches the timeout
off for whoever sends it. HAProxy itself would send a line per request, path and query with it, to UDP 514.
Refuses nothing: a request goes on without such headers, and with an id that Serve makes.
"""

from __future__ import annotations

import re

# One id of 1 to 128 plain characters is the caller's to choose; Serve makes one where there is none.
REQUEST_ID = "[A-Za-z0-9._:-]{1,128}"
# Serve's own controls, with - or _ as it reads them: timeout, watching for disconnects, sessions, multiplexed models.
_CONTROLS = (
    "^(x-request-timeout-seconds|x-request-disconnect-disabled"
    "|x[-_]session[-_]id|serve[-_]multiplexed[-_]model[-_]id)$"
)
RULES = (
    "http-request del-header x-request-id unless"
    f" {{ req.fhdr_cnt(x-request-id) eq 1 }} {{ req.fhdr(x-request-id) -m reg ^{REQUEST_ID}$ }}",
    f"http-request del-header {_CONTROLS} -m reg",
    # A GET whose replica ended without a word is asked of another one (haproxy.py: retry-on empty-response); nothing
    # else is, as it may have been done.
    "http-request disable-l7-retry unless METH_GET",
    # Look-ups stand in HAProxy's queue as if they had come 800 ms earlier: beside a flood of requests that have to be
    # ranked, which wait for a second, they hardly wait, and in a flood of look-ups the others are not left for ever.
    "http-request set-priority-offset int(-800) if METH_GET !{ query -m sub category= exclude= include_seen= }",
)
# The line that Ray writes unless RAY_SERVE_HAPROXY_LOG_TARGET names another target.
SYSLOG = "log 127.0.0.1:514 local0 info\n"


def guarded(config: str) -> str:
    """HAProxy's file as Ray writes it, with the rules in its frontend and without the log to syslog; idempotent."""
    if RULES[0] in config:
        return config
    rules = "".join(f"    {rule}\n" for rule in RULES)
    config = re.sub(r"(?m)^(frontend http_frontend\n *bind [^\n]*\n)", lambda found: found[1] + rules, config)
    return re.sub(rf"(?m)^ *{re.escape(SYSLOG)}", "", config)
