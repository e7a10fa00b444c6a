import dataclasses
import pickle
from pathlib import Path

import dask
import pytest
import yaml

import wukong.config
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.config import KEYS, Settings
from wukong.core.policy import Policy
from wukong.errors import ConfigError

PACKAGE = Path(wukong.config.__file__).parent


@pytest.fixture
def user_file(monkeypatch, tmp_path):
    """Write a user's configuration file and have Dask read it, as it does when it is imported."""

    def write(text: str) -> Path:
        path = tmp_path / "wukong.yaml"
        path.write_text(text)
        monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
        dask.config.refresh(paths=[str(tmp_path)])
        return path

    yield write
    monkeypatch.undo()
    dask.config.refresh()


@pytest.fixture
def refreshed(monkeypatch):
    """Have Dask read the environment again, as it does when it is imported."""
    yield lambda: dask.config.refresh()
    monkeypatch.undo()
    dask.config.refresh()


class OpenStore(Store):
    def get(self, keys):
        return [None] * len(keys)

    def put(self, items, ttl_s=None):
        pass

    def delete(self, keys):
        pass

    def wait(self, key, timeout_s):
        return None

    def incr(self, arrivals, ttl_s=None):
        return []

    def spec(self):
        return PluginSpec("nowhere:OpenStore")


def source_of(settings: Settings, key: str) -> str:
    return {row[0]: row[2] for row in settings.describe()}[key]


def test_the_defaults_are_those_of_the_file_in_the_package():
    settings = Settings.load()
    written = yaml.safe_load((PACKAGE / "wukong.yaml").read_text())["wukong"]
    assert {key: getattr(settings, key) for key in KEYS} == {
        key.replace("-", "_"): value for key, value in written.items()
    }
    assert set(settings.sources.values()) == {"default"}


def test_every_field_of_the_policy_is_a_setting_with_the_same_default():
    assert {each.name for each in dataclasses.fields(Policy)} <= set(KEYS)
    assert Settings.load().policy() == Policy()


def test_the_policy_follows_the_settings():
    policy = Settings.load(fan_out="eager", max_task_fanout=3, ttl_s=60, patience_s=0.5).policy()
    assert policy == Policy(fan_out="eager", max_task_fanout=3, ttl_s=60, patience_s=0.5)


@pytest.mark.parametrize(("written", "read"), [("off", "off"), ("on", "on"), ("false", "off"), ("true", "on")])
def test_a_switch_takes_the_words_of_yaml_for_true_and_false(user_file, refreshed, monkeypatch, written, read):
    dask.config.refresh(paths=[str(user_file(f"wukong:\n  events: {written}"))])
    assert Settings.load().events == read
    monkeypatch.setenv("WUKONG_EVENTS", written)
    assert Settings.load().events == read


def test_each_layer_covers_the_ones_below(user_file, refreshed, monkeypatch):
    path = user_file("wukong:\n  retries: 1\n  page-tasks: 11\n  ride-bytes: 111\n  heartbeat_s: 3\n  ttl-s: 100")
    monkeypatch.setenv("DASK_WUKONG__PAGE_TASKS", "22")
    monkeypatch.setenv("DASK_WUKONG__RIDE_BYTES", "222")
    dask.config.refresh(paths=[str(path)])
    monkeypatch.setenv("WUKONG_RIDE_BYTES", "333")
    monkeypatch.setenv("WUKONG_HEARTBEAT_S", "4")
    monkeypatch.setenv("WUKONG_TTL_S", "200")
    with dask.config.set({"wukong.heartbeat-s": 5, "wukong.ttl_s": 300}):
        settings = Settings.load(ttl_s=400)
    found = {row[0]: row[1:] for row in settings.describe()}
    assert found["retries"] == (1, str(path))
    assert found["page_tasks"] == (22, "DASK_WUKONG__PAGE_TASKS")
    assert found["ride_bytes"] == (333, "WUKONG_RIDE_BYTES")
    assert found["heartbeat_s"] == (5, "dask.config.set")
    assert found["ttl_s"] == (400, "argument")
    assert found["delay_budget_s"] == (None, "default")


def test_what_dask_config_set_says_ends_with_its_block():
    with dask.config.set({"wukong.retries": 4}):
        assert Settings.load().retries == 4
    assert Settings.load().retries == 0


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("WUKONG_FAAS", "local", "faas", "local"),
        ("WUKONG_PROGRESS", "false", "progress", False),
        ("WUKONG_PROGRESS", "auto", "progress", "auto"),
        ("WUKONG_LARGE_OBJECT_BYTES", "200 MB", "large_object_bytes", 200_000_000),
        ("WUKONG_PATIENCE_S", "50 ms", "patience_s", 0.05),
        ("WUKONG_PATIENCE_S", "2", "patience_s", 2),
        ("WUKONG_COMPRESSION", "null", "compression", None),
        ("WUKONG_KEY", "12345678", "key", "12345678"),
        ("WUKONG_KEY", "12e4", "key", "12e4"),
        ("WUKONG_STORAGE", "redis://h:1,h:2", "storage", {"name": "redis", "url": "redis://h:1,h:2"}),
        ("WUKONG_STORAGE__SIZE_BYTES", "5", "storage", {"name": "local", "size_bytes": 5}),
    ],
)
def test_the_environment_is_read_as_the_setting_wants_it(monkeypatch, name, text, key, value):
    monkeypatch.setenv(name, text)
    settings = Settings.load()
    assert getattr(settings, key) == value
    assert name in settings.sources.values()


def test_options_from_the_environment_belong_to_the_plugin_from_the_environment(monkeypatch):
    for name, text in {"HOST": "h", "NAME": "redis", "PASSWORD": "hunter2"}.items():
        monkeypatch.setenv(f"WUKONG_STORAGE__{name}", text)
    assert Settings.load().storage == {"name": "redis", "host": "h", "password": "hunter2"}


@pytest.mark.parametrize("url", ["redis://u:hun,ter2@h", "redis://u:hun/ter2@h:1", "redis://u:hun?ter2@h,u:ter2@i/0"])
def test_a_password_that_is_not_escaped_is_masked_all_the_same(url):
    assert "ter2" not in repr(Settings.load(storage=url))


def test_what_opens_a_store_in_a_function_is_no_setting(monkeypatch):
    monkeypatch.setenv("WUKONG_REDIS_PASSWORD", "hunter2")
    monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", "00" * 32)
    monkeypatch.setenv("WUKONG_DEPLOYMENT_PRELOAD", "numpy")
    assert Settings.load() == Settings.load(storage="local")
    monkeypatch.setenv("WUKONG_REDIS_PASSWORT", "hunter2")
    with pytest.raises(ConfigError, match="redis_passwort"):
        Settings.load()


def test_options_of_one_plugin_are_gathered_from_all_layers(user_file, monkeypatch):
    path = user_file("wukong: {storage: {name: redis, endpoints: [a, b], db: 1}}")
    monkeypatch.setenv("WUKONG_STORAGE__DB", "2")
    settings = Settings.load(storage="redis")
    assert settings.storage == {"name": "redis", "endpoints": ["a", "b"], "db": 2}
    assert source_of(settings, "storage") == "argument"
    assert source_of(settings, "storage.endpoints") == str(path)
    assert source_of(settings, "storage.db") == "WUKONG_STORAGE__DB"


def test_another_plugin_drops_the_options_of_the_one_below(user_file):
    user_file("wukong: {storage: {name: redis, endpoints: [a, b]}}")
    settings = Settings.load(storage="local")
    assert settings.storage == "local"
    assert not [key for key in settings.sources if key.startswith("storage.")]


def test_an_open_backend_is_a_choice_as_it_is():
    store = OpenStore()
    assert Settings.load(storage=store).storage is store


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_choice_of_a_plugin_leaves_the_configured_one(nothing):
    with dask.config.set({"wukong.storage": "redis"}):
        assert Settings.load(storage=nothing).storage == "redis"


def test_an_unknown_argument_names_itself_the_valid_ones_and_the_nearest():
    with pytest.raises(ConfigError) as caught:
        Settings.load(max_fanout_task=3)
    assert "there is no setting 'max_fanout_task'" in str(caught.value)
    assert "did you mean 'max_task_fanout'?" in str(caught.value)
    assert all(key in str(caught.value) for key in KEYS)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_key_says_which_file_or_variable_it_is_in(user_file, monkeypatch):
    monkeypatch.setenv("WUKONG_RETIRES", "3")
    with pytest.raises(ConfigError, match=r"no setting 'retires' \(set by WUKONG_RETIRES\)\n.*did you mean 'retries'"):
        Settings.load()
    monkeypatch.delenv("WUKONG_RETIRES")
    path = user_file("wukong: {fanout: eager}")
    with pytest.raises(ConfigError, match="no setting 'fanout'") as caught:
        Settings.load()
    assert f"(set by {path})" in str(caught.value)
    assert "did you mean 'fan_out'?" in str(caught.value)


def test_an_unknown_key_that_code_set_says_so():
    with (
        dask.config.set({"wukong.storrage": "local"}),
        pytest.raises(ConfigError, match=r"no setting 'storrage' \(set by dask.config.set\)"),
    ):
        Settings.load()


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("retries", "many", "a whole number, not 'many'"),
        ("retries", 1.5, "a whole number, not 1.5"),
        ("retries", True, "a whole number, not true"),
        ("retries", None, "a whole number, not null"),
        ("patience_s", "soon", "a number or null, not 'soon'"),
        ("release", 1, "true or false, not 1"),
        ("events", 1, "'off' or 'on', not 1"),
        ("fan_out", "egaer", "'patience' or 'eager', not 'egaer'"),
        ("compression", "gzip", "'auto' or 'lz4' or null, not 'gzip'"),
        ("progress", "yes", "true or false or 'auto', not 'yes'"),
        ("page_tasks", 0, "at least 1, not 0"),
        ("retries", -1, "at least 0, not -1"),
        ("patience_s", float("nan"), "at least 0, not nan"),
        ("faas", 3, "a plug-in's name, a URL, a mapping or an open backend, not 3"),
        ("storage", "", "names no plug-in"),
    ],
)
def test_an_ill_typed_value_names_its_key_and_what_is_wanted(key, value, wanted):
    with pytest.raises(ConfigError) as caught:
        Settings.load(**{key: value})
    assert repr(key) in str(caught.value)
    assert wanted in str(caught.value)


def test_an_ill_typed_value_in_the_environment_names_its_variable(monkeypatch):
    monkeypatch.setenv("WUKONG_RETRIES", "many")
    with pytest.raises(ConfigError, match=r"'retries' \(set by WUKONG_RETRIES\) must be a whole number"):
        Settings.load()


def test_a_section_that_is_no_mapping_is_refused(user_file):
    path = user_file("wukong: yes please")
    with pytest.raises(ConfigError, match="'wukong' must be a mapping of settings") as caught:
        Settings.load()
    assert str(path) in str(caught.value)


def test_secrets_are_shown_nowhere():
    settings = Settings.load(
        key="hunter2", storage={"url": "redis://user:hunter2@a:1,b:2/0?token=hunter2&db=1", "password": "hunter2"}
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(settings.describe())
    shown = {row[0]: row[1] for row in settings.describe()}
    assert shown["storage.url"] == "redis://***@a:1,b:2/0?token=***&db=1"
    assert (shown["storage.password"], shown["key"]) == ("***", "***")
    with pytest.raises(ConfigError) as caught:
        Settings.load(key=b"hunter2")
    assert "hunter2" not in str(caught.value)


def test_settings_cannot_be_changed_and_travel():
    settings = Settings.load(retries=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.retries = 3
    assert pickle.loads(pickle.dumps(settings)) == settings
