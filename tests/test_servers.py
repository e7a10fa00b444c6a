"""The servers that tests start: stopped in their tracks, and let go on."""

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as NoAnswer
from redis.retry import Retry
from waiting import wait

from wukong.testing.servers import RedisServer


def test_a_server_answers_nothing_from_when_it_is_frozen_until_it_is_thawed():
    with RedisServer() as server, Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:

        def answers():
            try:
                return client.ping()
            except NoAnswer:
                return False

        wait(answers)
        for _ in range(2):  # the second time it is frozen already
            server.freeze()
            with pytest.raises(NoAnswer):
                client.ping()
        server.thaw()
        wait(answers, "it goes on")
