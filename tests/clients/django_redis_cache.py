"""django-redis."""

import sys

import django
from django.conf import settings

from check import ok

settings.configure(
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{sys.argv[1]}/2"}}
)
django.setup()

from django.core.cache import cache  # noqa: E402

cache.set("a", [1, 2], timeout=100)
ok("set, get", cache.get("a") == [1, 2])
ok("set nx", cache.set("a", 1, nx=True) in (False, None) and cache.set("b", 1, nx=True))
ok("ttl, pttl", 98 <= cache.ttl("a") <= 100 and cache.pttl("a") > 98_000)
ok("persist, expire", cache.persist("a") and cache.ttl("a") is None and cache.expire("a", timeout=50))
ok("incr", cache.incr("b") == 2 and cache.incr("b", 5) == 7)
cache.set_many({"k:1": 1, "k:2": 2, "k:3": 3})
ok("get_many", cache.get_many(["k:1", "k:2"]) == {"k:1": 1, "k:2": 2})
ok("keys", sorted(cache.keys("k:*")) == ["k:1", "k:2", "k:3"])
ok("iter_keys", sorted(cache.iter_keys("k:*")) == ["k:1", "k:2", "k:3"])
ok("delete_pattern", cache.delete_pattern("k:*") == 3)
ok("has_key, delete", cache.has_key("a") and cache.delete("a") and not cache.has_key("a"))
cache.clear()
ok("clear", cache.get("b") is None)
