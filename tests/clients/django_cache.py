"""Django's own Redis cache, and sessions kept in it."""

import sys

import django
from django.conf import settings

from check import ok

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{sys.argv[1]}/1",
        }
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.cache import cache  # noqa: E402

cache.set("a", {"ville": "Orléans"}, timeout=100)
ok("set, get", cache.get("a") == {"ville": "Orléans"} and cache.get("b", "none") == "none")
ok("add", cache.add("b", 1) and not cache.add("b", 2))
ok("incr, decr", cache.incr("b", 4) == 5 and cache.decr("b") == 4)
ok("touch, has_key", cache.touch("a", 50) and cache.has_key("a") and not cache.touch("none"))
ok("set_many, get_many", cache.set_many({"x": 1, "y": 2}, 60) == [] and cache.get_many(["x", "y", "z"]) == {"x": 1, "y": 2})
ok("get_or_set", cache.get_or_set("made", lambda: 7) == 7)
cache.delete_many(["x", "y"])
ok("delete, delete_many", cache.delete("a") and cache.get_many(["x", "y"]) == {})
cache.set("gone", 1, timeout=0)
ok("a timeout of 0", cache.get("gone") is None)
session = SessionStore()
session["user"] = "jean"
session.save()
ok("a session", SessionStore(session.session_key)["user"] == "jean")
session.flush()
ok("its end", not SessionStore(session.session_key).exists(session.session_key or "none"))
cache.clear()
ok("clear", cache.get("b") is None)
