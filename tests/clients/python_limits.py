"""limits and Flask-Limiter: rate limits that hold under many clients."""

import sys
import threading

import limits
import redis
from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from check import ok

URL = f"redis://127.0.0.1:{sys.argv[1]}"
redis.Redis(port=int(sys.argv[1])).flushall()

if sys.argv[2] == "limits":
    for strategy in (FixedWindowRateLimiter, SlidingWindowCounterRateLimiter):
        limiter = strategy(RedisStorage(URL))
        limit = limits.parse("30/hour")
        passed = []

        def hit():
            for _ in range(5):
                passed.append(limiter.hit(limit, strategy.__name__, "user"))

        threads = [threading.Thread(target=hit) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        name = strategy.__name__.removesuffix("RateLimiter")
        ok(f"{name}: 30 of 100 requests of 20 clients pass", passed.count(True) == 30)
        ok(f"{name}: test, get_window_stats", not limiter.test(limit, strategy.__name__, "user")
           and limiter.get_window_stats(limit, strategy.__name__, "user").remaining == 0)
else:
    app = Flask(__name__)
    limiter = Limiter(get_remote_address, app=app, storage_uri=URL, default_limits=["5 per hour"])

    @app.route("/")
    def index():
        return "bonjour"

    web = app.test_client()
    ok("5 per hour", [web.get("/").status_code for _ in range(7)] == [200] * 5 + [429] * 2)
    limiter.reset()
    ok("reset", web.get("/").status_code == 200)
