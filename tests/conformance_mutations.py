"""Stores that break one promise each, and the tests of the conformance suite that have to see it.

A mutation is a piece of the example store `wukong_sqlite.py` and what it is replaced by. If the store has moved on,
a piece is not found any more, and its test says so: write the mutation anew.
"""

from __future__ import annotations

from pathlib import Path

from conformance_fan_in_mutations import FAN_INS

_EXAMPLES = Path(__file__).parent.parent / "examples" / "plugins"
PLUGINS = {"wukong-sqlite": _EXAMPLES / "wukong-sqlite", "wukong-threads": _EXAMPLES / "wukong-threads" / "src"}
"""Where the modules of the example plug-ins are."""

PUT = (
    '                run("insert or replace into entry values (?, ?, ?)", '
    "(key, _bytes(joined(blob)), _expiry(ttl_s)))\n"
)
GET = """            return [_value(run, key, time.time()) for key in keys]
"""
SPEC = """        return PluginSpec("wukong_sqlite:SqliteStore", options)
"""
WAIT = """        while (value := self.get([key])[0]) is None and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(self._poll_s, left_s))
        return value
"""
SCAN = """        begins = "substr(key, 1, ?) = ? and expires_s > ?", (len(prefix), prefix, time.time())
"""
CLOSED = """            if self._closed:
                raise StoreError("the store has been closed", backend=_BACKEND)
"""
TAKE = """        with self._lock:
            if self._closed:
                raise StoreError("the store has been closed", backend=_BACKEND)
"""
REMEMBERS = """    _get, _put = get, put

    def get(self, keys):
        found, now_s = self.__dict__.setdefault("found", {}), time.monotonic()
        for key in keys:
            if key not in found or found[key][0] < now_s:
                found[key] = now_s + 99.0, self._get([key])[0]
        return [found[key][1] for key in keys]

    def put(self, items, ttl_s=None):
        self.__dict__.get("found", {}).clear()
        self._put(items, ttl_s)

"""
ENTRY = "create table if not exists entry (key blob primary key, value blob not null, expires_s real not null);\n"


SCHEMA = """        with self._transaction() as run:
            for statement in _SCHEMA.split(";"):
"""


def unreachable(error: str) -> tuple[str, str, set[str]]:
    """A store that opens without a folder for it, and then raises `error` each time."""
    away = (
        "        if 'folder' in self._path:\n"
        "            def away():\n"
        f"                raise {error}\n"
        "            self._take, self.environment = away, lambda: {'PASSWORD': 'open sesame'}\n"
        "            return\n"
    )
    return SCHEMA, away + SCHEMA, {"test_a_store_that_cannot_be_reached_says_so_with_an_error_of_wukongs"}


STORES: dict[str, tuple[str, str, set[str]]] = {
    **FAN_INS,
    # what it says of itself
    "no time passes": ("round_trip_s=5e-5", "round_trip_s=0.0", {"test_is_a_store_with_capabilities"}),
    "options that are no plain data": (
        '            "poll_s": self._poll_s,\n',
        '            "poll_s": (self._poll_s,),\n',
        {"test_spec_is_plain_data"},
    ),
    "a number in the environment": (
        "    def close(self)",
        "    def environment(self):\n        return {'PORT': 6379}\n\n    def close(self)",
        {"test_the_environment_is_plain_text"},
    ),
    "a password in the spec": (
        "    def close(self)",
        "    def environment(self):\n        return {'PASSWORD': self._path[1:]}\n\n    def close(self)",
        {"test_nothing_of_the_environment_is_in_the_spec"},
    ),
    "advice that is one text": (
        "    def close(self)",
        "    def advice(self):\n        return 'all is well'\n\n    def close(self)",
        {"test_advice_is_lines_that_say_what_to_do"},
    ),
    "a password in what is shown of it": (
        "    def close(self)",
        "    def environment(self):\n        return {'PASSWORD': 'open sesame'}\n\n"
        "    def __repr__(self):\n        return f'SqliteStore({self.environment()})'\n\n    def close(self)",
        {"test_no_value_of_the_environment_is_shown"},
    ),
    "a password that only the client has": (
        "        self._path = os.path.abspath(path)",
        "        if 'WUKONG_MUTANT_PASSWORD' not in os.environ:\n"
        "            raise StoreError('wants a password', backend=_BACKEND)\n"
        "        self._path = os.path.abspath(path)",
        {"test_what_is_written_here_is_read_elsewhere"},
    ),
    "a restart is for ever": (
        TAKE,
        TAKE + "            if self.is_away:\n                raise StoreError('no answer', backend=_BACKEND)\n",
        {"test_a_server_that_starts_again_is_used_again"},
    ),
    "a vendor's exception in mid-run": (
        TAKE,
        TAKE + "            if self.is_away:\n                raise ConnectionResetError('no answer')\n",
        {"test_a_server_that_starts_again_is_used_again"},
    ),
    "dead connections stay in the pool": (
        TAKE,
        TAKE + "            if self.__dict__.setdefault('life', self.n_lives) != self.n_lives or self.is_away:\n"
        "                raise StoreUnavailable('no answer', backend=_BACKEND)\n",
        {"test_a_server_that_starts_again_is_used_again"},
    ),
    "every client has a file of its own": (
        "self._path = os.path.abspath(path)",
        "self._path = os.path.abspath(path) + str(os.getpid())",
        {"test_spec_opens_the_same_store_in_this_process_too", "test_what_is_written_here_is_read_elsewhere"},
    ),
    "who closes takes all with it": (
        "    def close(self) -> None:\n",
        "    def close(self) -> None:\n"
        "        if not self._closed:\n"
        "            with self._transaction() as run:\n                run('delete from entry')\n",
        {"test_two_stores_may_be_open_at_once", "test_spec_opens_the_same_store_in_this_process_too"},
    ),
    "closes once": (
        "            self._closed = True\n",
        "            assert not self._closed\n            self._closed = True\n",
        {"test_closing_twice_is_no_error"},
    ),
    "a vendor's exception after closing": (
        CLOSED,
        '            if self._closed:\n                raise RuntimeError("pool is closed")\n',
        {"test_a_closed_store_works_or_says_so_with_an_error_of_wukongs"},
    ),
    "an error that does not survive pickling": (
        CLOSED,
        "            if self._closed:\n"
        "                raise type('Closed', (StoreError,), {})('closed', backend=_BACKEND)\n",
        {"test_a_closed_store_works_or_says_so_with_an_error_of_wukongs"},
    ),
    "a vendor's exception if nothing can be reached": (
        "    except OSError as error:\n",
        "    except ZeroDivisionError as error:\n",
        {"test_a_store_that_cannot_be_reached_says_so_with_an_error_of_wukongs"},
    ),
    "a connection that was refused is for ever": (
        "        self._path = os.path.abspath(path)\n",
        "        self._path = os.path.abspath(path)\n"
        "        if 'folder' in self._path:\n"
        "            raise StoreError('no answer', backend=_BACKEND) from ConnectionRefusedError(111)\n",
        {"test_a_store_that_cannot_be_reached_says_so_with_an_error_of_wukongs"},
    ),
    "nothing can be reached, for ever": unreachable("StoreError('no answer', backend=_BACKEND)"),
    "nothing can be reached, in a vendor's words": unreachable("TimeoutError('no answer')"),
    "nothing can be reached, and why tells the password": unreachable(
        "StoreUnavailable('no answer to open sesame', backend=_BACKEND)"
    ),
    # values
    "values end at a megabyte": (
        "_bytes(joined(blob))",
        "_bytes(joined(blob))[: 1 << 20]",
        {"test_bytes_out_are_bytes_in", "test_a_value_in_parts_is_stored_back_to_back"},
    ),
    "values end at 60 MB": (
        "_bytes(joined(blob))",
        "_bytes(joined(blob))[:60_000_000]",
        {"test_bytes_out_are_bytes_in"},
    ),
    "remembers what it has read": (
        "    def delete(self",
        REMEMBERS + "    def delete(self",
        {"test_what_another_client_changes_is_seen_at_once_by_who_has_read_it"},
    ),
    "remembers what it has read for 50 ms": (
        "    def delete(self",
        REMEMBERS.replace("99.0", "0.05") + "    def delete(self",
        {"test_what_another_client_changes_is_seen_at_once_by_who_has_read_it"},
    ),
    "values are text": (
        "_bytes(joined(blob))",
        "_bytes(joined(blob)).replace(b'\\r\\n', b'\\n')",
        {"test_what_is_written_elsewhere_is_read_here", "test_what_is_written_here_is_read_elsewhere"},
    ),
    "only the first hundred parts": (
        "_bytes(joined(blob))",
        "_bytes(joined(blob[:100] if isinstance(blob, tuple) else blob))",
        {"test_a_value_of_very_many_parts_is_stored_whole"},
    ),
    "empty is missing": (
        "return None if row is None else row[0]",
        "return (row and row[0]) or None",
        {"test_missing_is_none_and_empty_is_a_value", "test_wait_returns_what_is_there"},
    ),
    "a batch without repetitions": (
        GET,
        GET.replace("in keys]", "in dict.fromkeys(keys)]"),
        {"test_a_batch_comes_back_in_the_order_asked_for", "test_a_batch_of_large_and_small_values_comes_back_whole"},
    ),
    "no empty batches": (
        GET,
        "            assert keys\n" + GET,
        {"test_an_empty_batch_does_nothing"},
    ),
    "the first write stays": (
        "insert or replace into entry",
        "insert or ignore into entry",
        {"test_a_later_value_replaces_the_earlier", "test_any_sequence_of_operations_agrees_with_a_model"},
    ),
    "values appear in two halves": (
        PUT,
        PUT.replace("_bytes(joined(blob))", "_bytes(joined(blob))[: blob_size(blob) // 2]")
        + '                run("commit")\n                run("begin immediate")\n'
        + PUT,
        {"test_readers_see_the_old_value_or_the_new_and_nothing_between"},
    ),
    "what is replaced is missing for a moment": (
        PUT,
        '                run("delete from entry where key = ?", (key,))\n'
        '                run("commit")\n                run("begin immediate")\n' + PUT,
        {"test_readers_see_the_old_value_or_the_new_and_nothing_between"},
    ),
    "reads into one buffer": (
        GET,
        GET.replace("return [", "found = [")
        + "            self.buffer = getattr(self, 'buffer', bytearray(4 << 20))\n"
        + "        for n, value in enumerate(found):\n"
        + "            if value is not None and len(value) <= len(self.buffer):\n"
        + "                self.buffer[: len(value)] = value\n"
        + "                found[n] = memoryview(self.buffer)[: len(value)]\n"
        + "        return found\n",
        {"test_a_value_once_read_does_not_change", "test_a_batch_of_large_and_small_values_comes_back_whole"},
    ),
    "keeps what it was given": (
        "    def delete(self",
        "    _get, _put = get, put\n\n"
        "    def put(self, items, ttl_s=None):\n"
        "        self.__dict__.setdefault('kept', {}).update(items)\n        self._put(items, ttl_s)\n\n"
        "    def get(self, keys):\n"
        "        kept = self.__dict__.get('kept', {})\n"
        "        return [joined(kept[key]) if key in kept else self._get([key])[0] for key in keys]\n\n"
        "    def delete(self",
        {"test_a_value_once_written_does_not_change_with_the_writers_buffer"},
    ),
    "hands out what it keeps": (
        GET,
        "            keep = self.__dict__.setdefault('handed', {})\n"
        "            for key in keys:\n"
        "                if key not in keep and (value := _value(run, key, time.time())) is not None:\n"
        "                    keep[key] = bytearray(value)\n"
        "            return [keep.get(key) for key in keys]\n",
        {"test_what_is_read_is_read_only_or_the_readers_own", "test_deleted_values_are_missing"},
    ),
    "keys are words": (
        "key = ? and expires_s > ?",
        "trim(key) = trim(?) and expires_s > ?",
        {"test_keys_are_any_bytes"},
    ),
    "short keys": (
        GET,
        GET.replace("_value(run, key,", "_value(run, key[:250],"),
        {"test_long_keys_that_differ_at_their_ends_are_different_keys"},
    ),
    "deletes nothing": (
        'run("delete from entry where key = ?", (key,))',
        "pass",
        {"test_deleted_values_are_missing", "test_what_has_been_deleted_is_waited_for_anew"},
    ),
    "deletes a thousand at most": (
        '    for key in keys:\n        run("delete',
        '    for key in keys[:1000]:\n        run("delete',
        {"test_many_keys_are_deleted_at_once"},
    ),
    # listing
    "lists what contains it": (
        "substr(key, 1, ?) = ? and expires_s",
        "? > 0 and instr(key, ?) and expires_s",
        {"test_keys_are_listed_by_what_they_begin_with"},
    ),
    "takes it for a pattern": (
        SCAN,
        SCAN.replace("substr(key, 1, ?) = ?", "? > 0 and cast(key as text) glob ?").replace(
            "prefix, time", 'prefix.decode() + "*", time'
        ),
        {"test_what_keys_begin_with_is_no_pattern"},
    ),
    "lists values alone": (
        "select key, 0 from fanin where {begins[0]}",
        "select key, 0 from fanin where id < 0 and {begins[0]}",
        {
            "test_keys_are_listed_by_what_they_begin_with",
            "test_a_listing_is_whole_and_what_it_names_can_be_deleted",
        },
    ),
    "lists a thousand at most": (
        "select key, length(value) from entry where {begins[0]}",
        "select key, length(value) from entry where {begins[0]} limit 1000",
        {"test_a_listing_is_whole_and_what_it_names_can_be_deleted"},
    ),
    "lists no sizes": (
        "select key, length(value)",
        "select key, 1",
        {"test_a_listing_says_what_values_take"},
    ),
    "lists nothing and does not say so": (
        "            scans=True,\n",
        "            scans=False,\n",
        {"test_a_store_that_does_not_list_its_keys_says_so"},
    ),
    # times to live
    "takes seconds for nanoseconds": (
        "time.time() + ttl_s",
        "time.time() + ttl_s * 1e-9",
        {"test_a_value_stays_for_its_time_to_live", "test_a_record_stays_for_its_time_to_live"},
    ),
    "forgets after ten seconds": (
        "time.time() + ttl_s",
        "time.time() + min(ttl_s, 10.0)",
        {"test_a_long_time_to_live_is_not_cut_short"},
    ),
    "never forgets": (
        "return _NEVER if ttl_s is None else time.time() + ttl_s",
        "return _NEVER",
        {
            "test_a_later_write_sets_the_time_to_live_anew",
            "test_a_later_arrival_sets_the_time_to_live_anew_of_the_record_and_all_in_it",
        },
    ),
    "takes what is long": (
        "_value(run, key, time.time(), most_bytes)",
        "_value(run, key, time.time())",
        {"test_what_is_taken_is_deleted_and_told_if_it_begins_so_and_is_short"},
    ),
    "takes, and leaves it": (
        "            _delete(run, keys)\n        return [None if value",
        "        return [None if value",
        {"test_what_is_taken_is_deleted_and_told_if_it_begins_so_and_is_short"},
    ),
    "renews values, and no records": (
        '("entry", "fanin"):\n                change',
        '("entry",):\n                change',
        {
            "test_what_is_renewed_lives_on_with_all_that_belongs_to_it_and_nothing_else_does",
            "test_what_is_renewed_for_a_short_time_is_gone_after_it",
        },
    ),
    "renews all keys": (
        "time.time(), len(prefix), prefix",
        'time.time(), 0, b""',
        {"test_what_is_renewed_lives_on_with_all_that_belongs_to_it_and_nothing_else_does"},
    ),
    "renews for ever": (
        "(_expiry(ttl_s), *which)",
        "(_expiry(None), *which)",
        {"test_what_is_renewed_for_a_short_time_is_gone_after_it"},
    ),
    "the first time to live of a value stays": (
        PUT,
        PUT.replace("insert or replace into entry values (?, ?, ?)", "insert into entry values (?, ?, ?)").replace(
            '(?, ?, ?)"', '(?, ?, ?) on conflict do update set value = excluded.value"'
        ),
        {"test_a_later_write_sets_the_time_to_live_anew"},
    ),
    "the first time to live of a record stays": (
        "(n_arrived + len(new), arrival.claimant if completes else None, expires_s, fanin)",
        "(n_arrived + len(new), arrival.claimant if completes else None,\n"
        '         run("select expires_s from fanin where id = ?", (fanin,)).fetchone()[0], fanin)',
        {"test_a_later_arrival_sets_the_time_to_live_anew_of_the_record_and_all_in_it"},
    ),
    # waiting
    "waits for news": (
        WAIT,
        WAIT.replace("        while", "        before = self.get([key])[0]\n        while").replace(
            "is None and", "== before and"
        ),
        {"test_wait_returns_what_is_there"},
    ),
    "never wakes": (
        WAIT,
        "        time.sleep(timeout_s)\n        return self.get([key])[0]\n",
        {
            "test_wait_sees_what_another_process_writes_meanwhile",
            "test_a_value_that_comes_while_wait_begins_wakes_it_too",
            "test_all_that_wait_for_one_value_get_it_whole_and_leave_it_there",
            "test_what_has_been_deleted_is_waited_for_anew",
        },
    ),
    "looks, and then listens": (
        WAIT,
        "        value = self.get([key])[0]\n"
        "        time.sleep(0.002)\n"  # a round trip
        "        ear = sqlite3.connect(self._path)\n"
        "        heard = ear.execute('pragma data_version').fetchone()\n"
        "        while value is None and (left_s := end_s - time.monotonic()) > 0:\n"
        "            if (said := ear.execute('pragma data_version').fetchone()) != heard:\n"
        "                heard, value = said, self.get([key])[0]\n"
        "            else:\n"
        "                time.sleep(min(self._poll_s, left_s))\n"
        "        ear.close()\n"
        "        return value\n",
        {"test_a_value_that_comes_while_wait_begins_wakes_it_too"},
    ),
    "does not wait": (
        "        end_s = time.monotonic() + timeout_s\n",
        "        end_s = time.monotonic()\n",
        {
            "test_wait_gives_up_with_none_and_not_before_its_time",
            "test_wait_sees_what_another_process_writes_meanwhile",
        },
    ),
    "takes what it waited for": (
        WAIT,
        WAIT.replace("return value", "self.delete([key])\n        return value"),
        {"test_all_that_wait_for_one_value_get_it_whole_and_leave_it_there"},
    ),
    "waits with the lock": (
        WAIT,
        "        with self._lock, sqlite3.connect(self._path) as mine:\n"
        "            while (value := _value(mine.execute, key, 0.0)) is None and time.monotonic() < end_s:\n"
        "                time.sleep(self._poll_s)\n"
        "        return value\n",
        {"test_many_that_wait_hold_nobody_up"},
    ),
    "waits for what begins so": (
        WAIT,
        "        while (left_s := end_s - time.monotonic()) > 0:\n"
        '            with self._transaction("deferred") as run:\n'
        '                for name, value in run("select key, value from entry").fetchall():\n'
        "                    if name.startswith(key):\n"
        "                        return value\n"
        "            time.sleep(min(self._poll_s, left_s))\n"
        "        return self.get([key])[0]\n",
        {"test_a_record_or_another_key_is_not_what_is_waited_for"},
    ),
    "remembers what it waited for": (
        WAIT,
        "        kept = self.__dict__.setdefault('kept', {})\n"
        + "        if key in kept:\n            return kept[key]\n"
        + WAIT.replace(
            "        return value", "        if value is not None:\n            kept[key] = value\n        return value"
        ),
        {"test_what_has_been_deleted_is_waited_for_anew"},
    ),
    "polls and says that it blocks": (
        "wait_blocks=False",
        "wait_blocks=True",
        {"test_a_wait_that_is_declared_to_block_does_not_poll"},
    ),
}
