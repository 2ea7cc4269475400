"""Celery and RQ keep lists and hashes: they must be told so, not wait for ever."""

import sys

import redis

from check import ok

PORT = int(sys.argv[1])

if sys.argv[2] == "rq":
    from rq import Queue

    try:
        Queue(connection=redis.Redis(port=PORT)).enqueue(print, "x")
        error = ""
    except redis.ResponseError as caught:
        error = str(caught)
    ok("is refused with a clear message", "unknown command" in error.lower())
else:
    from celery import Celery

    app = Celery(broker=f"redis://127.0.0.1:{PORT}/0")
    try:
        app.send_task("x", retry=False)
        error = ""
    except Exception as caught:
        error = str(caught)
    ok("is refused with a clear message", "unknown command" in error.lower())
