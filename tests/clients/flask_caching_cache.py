"""Flask-Caching."""

import sys

from flask import Flask
from flask_caching import Cache

from check import ok

app = Flask("essai")
config = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_PORT": int(sys.argv[1]), "CACHE_KEY_PREFIX": "essai:"}
cache = Cache(app, config=config)
calls = []


@cache.memoize(timeout=60)
def double(number):
    calls.append(number)
    return 2 * number


with app.app_context():
    ok("set, get", cache.set("a", {"b": 1}, timeout=100) and cache.get("a") == {"b": 1})
    ok("add, has", cache.add("n", 1) and not cache.add("n", 2) and cache.has("n"))
    ok("set_many, get_many", cache.set_many({"x": 1, "y": 2}) and cache.get_many("x", "y", "z") == [1, 2, None])
    ok("memoize", double(2) == 4 and double(2) == 4 and calls == [2])
    cache.delete_memoized(double)
    ok("delete_memoized", double(2) == 4 and calls == [2, 2])
    ok("delete, delete_many", cache.delete("a") and cache.delete_many("x", "y") and cache.get("x") is None)
    ok("clear, by its prefix", cache.clear() and cache.get("n") is None)
