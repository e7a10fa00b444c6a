import pytest
from wukong_sqlite import SqliteStore

from wukong.testing.storage import StoreTests


class TestSqliteStore(StoreTests):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path):
        self.path = str(tmp_path / "store.sqlite")

    def make_store(self):
        return SqliteStore(self.path)
