"""The store `redis`."""
import redis, pytest
from wukong.backends.storage import Store
from wukong.backends.storage.redis import RedisStore
from wukong.testing.servers import RedisServer
from wukong.testing.storage import StoreTests

@pytest.fixture(scope="module")
def server():
    with RedisServer(unix_socket=True) as server:
        yield server

class TestOneServer(StoreTests):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server
    def make_store(self) -> Store:
        return RedisStore(endpoints=[self.server.endpoint])
