"""Stores that break one promise each about fan-ins, refusals and crowds: see `conformance_mutations`."""

from __future__ import annotations

INCR = """            return [_arrive(run, arrival, _expiry(ttl_s)) for arrival in arrivals]
"""
VALID = """    if not members or min(members) < 0 or max(members) >= arrival.of:
        raise ValueError(f"{sorted(members)} are no members of a fan-in of {arrival.of}")
"""
SAME_OF = """    if of != arrival.of:
        raise ValueError(f"the fan-in has {of} members, and an arrival says {arrival.of}")
"""
HOLDING = (
    "        return Outcome(complete=False, claimed=False, give_way=_hold(run, fanin, arrival, members, expires_s))\n"
)


FAN_INS: dict[str, tuple[str, str, set[str]]] = {
    # fan-ins
    "nobody claims": (
        "return _outcome(run, fanin, claimed=True) if completes",
        "return _outcome(run, fanin, claimed=False) if completes",
        {
            "test_the_last_arrival_completes_the_set_and_claims_it",
            "test_a_fan_in_of_one_is_claimed_at_once",
            "test_a_batch_arrives_at_many_fan_ins",
            "test_processes_write_into_one_fan_in_without_losing_an_arrival",
        },
    ),
    "counts arrivals": (
        "new = [member for member in members if not run(known, (fanin, member)).fetchone()]",
        "new = list(members)",
        {"test_a_member_that_has_arrived_before_changes_nothing"},
    ),
    "everybody claims": (
        "claimant == arrival.claimant)\n",
        "claimant is not None)\n",
        {"test_only_the_claimant_is_told_so_again", "test_of_many_processes_exactly_one_claims"},
    ),
    "claims once": (
        "return _outcome(run, fanin, claimant == arrival.claimant)",
        "return _outcome(run, fanin, False)",
        {"test_only_the_claimant_is_told_so_again", "test_of_many_processes_exactly_one_claims"},
    ),
    "arrives, last or not": (
        "    if arrival.only_if_last and not completes:\n" + HOLDING,
        "",
        {"test_only_if_last_is_no_arrival_if_it_is_not_last", "test_a_note_is_not_an_arrival"},
    ),
    "drops empty riders": (
        "if arrival.value is not None:",
        "if arrival.value:",
        {"test_riding_values_come_back_to_the_claimant"},
    ),
    "riders end at 64 KiB": (
        'run("insert into riding values (?, ?)", (fanin, arrival.value))',
        'run("insert into riding values (?, ?)", (fanin, arrival.value[:65_536]))',
        {"test_large_values_ride_whole"},
    ),
    "every arrival writes all that has ridden in": (
        "    if arrival.value is not None:\n",
        "    before = run('select value from riding where fanin = ?', (fanin,)).fetchall()\n"
        "    run('delete from riding where fanin = ?', (fanin,))\n"
        "    for (value,) in before:\n"
        "        run('insert into riding values (?, ?)', (fanin, value))\n"
        "    if arrival.value is not None:\n",
        {"test_an_arrival_costs_the_same_whatever_has_come_before"},
    ),
    "seven of eight arrivals write all that has ridden in": (
        "    if arrival.value is not None:\n",
        "    if arrival.members[0] % 8:\n"
        "        before = run('select value from riding where fanin = ?', (fanin,)).fetchall()\n"
        "        run('delete from riding where fanin = ?', (fanin,))\n"
        "        for (value,) in before:\n"
        "            run('insert into riding values (?, ?)', (fanin, value))\n"
        "    if arrival.value is not None:\n",
        {"test_an_arrival_costs_the_same_whatever_has_come_before"},
    ),
    "a value rides in every time": (
        "    if not new:\n",
        "    if not new and arrival.value is not None:\n"
        '        run("insert into riding values (?, ?)", (fanin, arrival.value))\n'
        "    if not new:\n",
        {"test_several_members_arrive_at_once_with_one_value", "test_a_member_that_has_arrived_before_changes_nothing"},
    ),
    "outcomes in another order": (
        INCR,
        INCR.replace("in arrivals]", "in sorted(arrivals, key=lambda each: each.record)]"),
        {"test_a_batch_arrives_at_many_fan_ins"},
    ),
    "one arrival a record in a batch": (
        INCR,
        "            seen = {a.record: a for a in reversed(arrivals)}\n"
        "            told = {r: _arrive(run, a, _expiry(ttl_s)) for r, a in seen.items()}\n"
        "            return [told[arrival.record] for arrival in arrivals]\n",
        {"test_a_batch_may_arrive_twice_at_one_fan_in"},
    ),
    "sixty-four members": (
        "members = set(arrival.members)",
        "members = {m % 64 for m in arrival.members}",
        {"test_a_wide_fan_in_completes_with_its_last_member"},
    ),
    "one name space": (
        "    members = set(arrival.members)\n",
        "    members = set(arrival.members)\n"
        '    run("insert or replace into entry values (?, ?, ?)", (arrival.record, b"", expires_s))\n',
        {"test_records_and_values_are_separate_name_spaces"},
    ),
    "deletes only values": (
        '        _delete_records(run, "key = ?", key)\n',
        "",
        {"test_delete_takes_records_as_well_as_values", "test_delete_takes_the_notes_too"},
    ),
    "claimants are words": (
        "claimant == arrival.claimant)\n",
        "claimant.strip() == arrival.claimant.strip())\n",
        {"test_records_and_claimants_are_any_bytes"},
    ),
    # those who hold
    "nobody gives way": (
        HOLDING,
        HOLDING.replace("give_way=_hold(run, fanin, arrival, members, expires_s)", "give_way=False"),
        {
            "test_two_that_come_only_if_last_leave_the_set_incomplete",
            "test_the_second_holder_gives_way_and_the_first_does_not",
            "test_the_first_holder_completes_after_the_second_has_arrived",
            "test_the_same_claimant_asking_again_gets_the_same_answer",
            "test_of_many_processes_that_hold_all_exactly_one_does_not_give_way",
        },
    ),
    "everybody gives way": (
        "        if claimant == arrival.claimant:\n            return False\n        if held",
        "        if held",
        {
            "test_the_same_claimant_asking_again_gets_the_same_answer",
            "test_holders_of_a_wide_fan_in_give_way_to_the_first",
        },
    ),
    "notes count as arrivals": (
        "completes = n_arrived + len(new) == of",
        'held = run("select members from hold where fanin = ?", (fanin,)).fetchall()\n'
        "    all_held = set().union(*(json.loads(each) for (each,) in held))\n"
        '    there = {each for (each,) in run("select member from member where fanin = ?", (fanin,))}\n'
        "    completes = len(there | members | all_held) == of and not arrival.only_if_last",
        {"test_a_note_is_not_an_arrival"},
    ),
    "tells everybody to give way": (
        "    if not new:\n        return Outcome(complete=False, claimed=False)",
        "    if not new:\n        return Outcome(complete=False, claimed=False, give_way=True)",
        {"test_only_who_comes_only_if_last_is_told_to_give_way"},
    ),
    "a new place for every note": (
        "    arrived = {row[0] for row",
        '    run("delete from hold where fanin = ? and claimant = ?", note[:2])\n'
        '    run("insert into hold (fanin, claimant, members) values (?, ?, ?)", note)\n'
        "    arrived = {row[0] for row",
        {
            "test_the_same_claimant_asking_again_gets_the_same_answer",
            "test_a_repeated_note_replaces_what_was_noted_and_keeps_its_place",
            "test_any_sequence_of_arrivals_agrees_with_the_definition",
            "test_of_three_holders_all_but_the_first_give_way_once_the_last_has_come",
        },
    ),
    "waits for who has arrived": (
        "        if held - arrived:\n",
        "        if held:\n",
        {
            "test_who_holds_nothing_that_is_missing_makes_nobody_give_way",
            "test_whoever_brought_it_what_has_arrived_is_not_waited_for",
        },
    ),
    "notes add up": (
        "    note = (fanin, arrival.claimant, json.dumps(sorted(members)))\n",
        '    mine = "select members from hold where fanin = ? and claimant = ?"\n'
        "    before = run(mine, (fanin, arrival.claimant)).fetchone()\n"
        "    members = members | set(json.loads(before[0]) if before else ())\n"
        "    note = (fanin, arrival.claimant, json.dumps(sorted(members)))\n",
        {"test_a_repeated_note_replaces_what_was_noted_and_keeps_its_place"},
    ),
    "deletes leave notes": (
        'for table in ("member", "riding", "hold"):',
        'for table in ("member", "riding"):',
        {"test_delete_takes_the_notes_too"},
    ),
    # what it refuses
    "takes anything": (
        "            if blob_size(blob) > (self.capabilities.max_value_bytes or 0):\n",
        "            if blob_size(blob) > 1 << 40:\n",
        {"test_a_value_above_the_largest_is_refused_and_not_seen"},
    ),
    "asks no questions of an arrival": (
        VALID,
        "",
        {
            "test_an_arrival_that_contradicts_is_refused_and_changes_nothing",
            "test_an_arrival_that_contradicts_itself_begins_no_record",
            "test_a_batch_with_a_contradiction_can_be_repeated_without_it",
        },
    ),
    "believes every size": (
        SAME_OF,
        "",
        {
            "test_an_arrival_that_contradicts_is_refused_and_changes_nothing",
            "test_a_complete_record_is_not_changed_by_one_who_contradicts_it",
        },
    ),
    "refuses when it has noted it": (
        VALID,
        VALID.replace(
            "        raise",
            '        run("insert into riding select id, ? from fanin where key = ?",\n'
            "            (arrival.value, arrival.record))\n"
            '        run("commit")\n        raise',
        ),
        {"test_an_arrival_that_contradicts_is_refused_and_changes_nothing"},
    ),
    # many at once
    "looks first, and writes later": (
        '    known = "select 1 from member',
        '    run("commit")\n    time.sleep(0)\n    run("begin immediate")\n    known = "select 1 from member',
        {
            "test_of_many_that_race_with_the_whole_set_exactly_one_claims",
            "test_processes_write_into_one_fan_in_without_losing_an_arrival",
        },
    ),
    "one connection for all threads": (
        '                connection.execute(f"begin {kind}")\n',
        '                connection = self.one = getattr(self, "one", connection)\n'
        '                connection.execute(f"begin {kind}")\n'
        "                time.sleep(0.001)\n",  # so that threads meet in it, on a busy machine as well
        {"test_threads_may_share_a_store"},
    ),
    "goes no further than a fork": (
        "            if self._pid != os.getpid():\n",
        "            assert self._pid == os.getpid()\n            if self._pid != os.getpid():\n",
        {"test_a_store_works_on_both_sides_of_a_fork"},
    ),
}
