"""Fan-in records in Redis: the Lua that makes an arrival atomic, its arguments, its answers.

A record is one hash, so that one expiry and one deletion are enough:

    of, n, c      how many members there are, how many have arrived, the claimant once all have
    <word>        members 32 * word .. that have arrived, as a bitmap of 32 bits
    v<n>          a value that rode in; `n` members had arrived before it
    q<claimant>   the place of a note: who holds members without having arrived
    o<place>      the note: words and their bits; places count up as the claimants' first notes come
    s, u          how many notes there are; how many members have arrived or are held. Both are absent without a note
    h<word>       members that some note names, as a bitmap; those that have arrived since may stay in it

An arrival reads and writes only the words of the members it brings, so each of 10,000 arrivals costs the same. Values
are collected when the set is complete. The script looks at notes one by one only if everything has arrived or is held,
or if a claimant no longer holds what it held.

One command writes the changes of a record of up to some 1,000 words, so a server without memory refuses an arrival as a
whole. A server checks its memory when a script begins; it never stops one in the middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from wukong.core.storage import Arrival, Outcome

__all__ = ["ARRIVE", "CALL_KEYS", "TAKE", "LuaScript", "arrive_calls", "outcomes", "sized"]

CALL_KEYS = 1_000
"""For how many keys one call of a script does not hold a server up."""

_CALL_ARGUMENTS = 100_000
_CALL_BYTES = 8 << 20
_ONLY_IF_LAST, _HAS_VALUE = 1, 2


class LuaScript:
    """Lua source and the hash that a server knows it by.

    A server that refuses a command names the line that calls it, so no line calls two commands.
    """

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest().encode()


ARRIVE = LuaScript(
    """\
-- KEYS: a record for each arrival. ARGV: milliseconds to live ('': for ever), then for each arrival
-- of, flags (1: only if last, 2: has a value), claimant, [value,] number of words, word, bits, word, bits, ...
-- Returns for each: 0 nothing yet, 1 complete, 2 give way, a table: claimed, with the values; -of: it contradicts.
local call, band, bor, bnot = redis.call, bit.band, bit.bor, bit.bnot
local STEP = 2000 -- what `unpack` takes with room to spare

-- What most arrivals do without. A script starts from nothing each time: this is made when it is needed first.
local function make()
  local rshift, gmatch, its = bit.rshift, string.gmatch, {}

  function its.count(bits)
    bits = bits - band(rshift(bits, 1), 0x55555555)
    bits = band(bits, 0x33333333) + band(rshift(bits, 2), 0x33333333)
    bits = band(bits + rshift(bits, 4), 0x0f0f0f0f)
    bits = bits + rshift(bits, 8)
    return band(bits + rshift(bits, 16), 0x3f)
  end

  function its.read(key, fields)
    local found = {}
    for from = 1, #fields, STEP do
      local part = call('HMGET', key, unpack(fields, from, math.min(#fields, from + STEP - 1)))
      for i = 1, #part do found[from + i - 1] = part[i] end
    end
    return found
  end

  function its.write(key, changes)
    for from = 1, #changes, STEP do
      call('HSET', key, unpack(changes, from, math.min(#changes, from + STEP - 1)))
    end
  end

  -- How many members that are about to arrive does no note name? `changes`: words in every other place.
  function its.unheld(key, changes, bits)
    local fields, n = {}, 0
    for i = 1, #bits do fields[i] = 'h' .. changes[2 * i - 1] end
    local held = its.read(key, fields)
    for i = 1, #bits do n = n + its.count(band(bits[i], bnot(held[i] or 0))) end
    return n
  end

  -- Does a note name a member that has not arrived?
  local function waits(key, note)
    local words, bits = {}, {}
    for word, mask in gmatch(note, '(%d+) (%d+)') do words[#words + 1], bits[#bits + 1] = word, mask end
    local there = its.read(key, words)
    for i = 1, #words do
      if band(bits[i], bnot(there[i] or 0)) ~= 0 then return true end
    end
    return false
  end

  -- Make a note in place of the one `before`; return its place, and how many have arrived or are held now.
  local function put_down(key, of, claimant, note, place, before, last, union)
    local words, mine, others, drops = {}, {}, {}, false
    for word, mask in gmatch(note, '(%d+) (%d+)') do words[#words + 1], mine[word] = word, mask end
    for word, mask in gmatch(before or '', '(%d+) (%d+)') do
      if not mine[word] then words[#words + 1], mine[word] = word, 0 end
      drops = drops or band(mask, bnot(mine[word])) ~= 0
    end
    for other = 1, drops and last or 0 do
      if tostring(other) ~= place then
        for word, mask in gmatch(call('HGET', key, 'o' .. other), '(%d+) (%d+)') do
          if mine[word] then others[word] = bor(others[word] or 0, mask) end
        end
      end
    end
    local fields, changes = {}, {}
    for i = 1, #words do fields[2 * i - 1], fields[2 * i] = words[i], 'h' .. words[i] end
    local found = its.read(key, fields)
    for i = 1, #words do
      local word, absent, held = words[i], bnot(found[2 * i - 1] or 0), bor(found[2 * i] or 0)
      local now = bor(mine[word], drops and (others[word] or 0) or held)
      if now ~= held then
        union = union + its.count(band(now, absent)) - its.count(band(held, absent))
        changes[#changes + 1], changes[#changes + 2] = 'h' .. word, now
      end
    end
    if not place then last, place = last + 1, last + 1 end
    for field, value in pairs({of = of, u = union, s = last, ['q' .. claimant] = place, ['o' .. place] = note}) do
      changes[#changes + 1], changes[#changes + 2] = field, value
    end
    its.write(key, changes)
    return place, union
  end

  function its.hold(key, of, claimant, arrived, from, to)
    local note = table.concat(ARGV, ' ', from, to)
    local known = call('HMGET', key, 'u', 's', 'q' .. claimant)
    local union, last, place = tonumber(known[1] or arrived), tonumber(known[2] or 0), known[3]
    local before = place and call('HGET', key, 'o' .. place)
    if note ~= before then place, union = put_down(key, of, claimant, note, place, before, last, union) end
    if union == tonumber(of) then
      for other = 1, place - 1 do
        if waits(key, call('HGET', key, 'o' .. other)) then return 2 end
      end
    end
    return 0
  end

  return its
end

local function claimed(key)
  local all, values = call('HGETALL', key), {}
  for i = 1, #all, 2 do
    if string.byte(all[i]) == 118 then values[#values + 1] = all[i + 1] end
  end
  return values
end

local ttl, at, answers, its = ARGV[1], 2, {}, nil
for i = 1, #KEYS do
  local key, of, flags, claimant, value = KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2], nil
  at = at + 3
  if flags >= '2' then
    value = ARGV[at]
    at = at + 1
  end
  local n, from, found = ARGV[at] + 0, at + 1, nil
  at = from + 2 * n
  if n == 1 then
    found = call('HMGET', key, 'of', 'n', 'c', 'u', ARGV[from])
  else
    its = its or make()
    local fields = {'of', 'n', 'c', 'u'}
    for word = 1, n do fields[4 + word] = ARGV[from + 2 * word - 2] end
    found = its.read(key, fields)
  end

  local answer = 0
  if found[1] and found[1] ~= of then
    answer = -found[1]
  elseif found[3] then
    answer = found[3] == claimant and claimed(key) or 1
  else
    local arrived, new, changes, bits = (found[2] or 0) + 0, 0, {}, found[4] and {}
    for word = 1, n do
      local mask, there = ARGV[from + 2 * word - 1], found[4 + word]
      local added = there and band(mask, bnot(there)) or mask + 0
      if added ~= 0 then
        changes[#changes + 1], changes[#changes + 2] = ARGV[from + 2 * word - 2], there and bor(there, mask) or mask
        if bits then bits[#bits + 1] = added end
        if band(added, added - 1) == 0 then
          new = new + 1
        else
          its = its or make()
          new = new + its.count(added)
        end
      end
    end
    local complete = arrived + new == of + 0
    if not complete and (flags == '1' or flags == '3') then
      its = its or make()
      answer = its.hold(key, of, claimant, arrived, from, at - 1)
    elseif new > 0 then
      if bits then
        its = its or make()
        changes[#changes + 1], changes[#changes + 2] = 'u', found[4] + its.unheld(key, changes, bits)
      end
      changes[#changes + 1], changes[#changes + 2] = 'n', arrived + new
      if not found[1] then changes[#changes + 1], changes[#changes + 2] = 'of', of end
      if value then changes[#changes + 1], changes[#changes + 2] = 'v' .. arrived, value end
      if complete then changes[#changes + 1], changes[#changes + 2] = 'c', claimant end
      if #changes <= STEP then
        call('HSET', key, unpack(changes))
      else
        its.write(key, changes)
      end
      if complete then answer = claimed(key) end
    end
  end
  if type(answer) == 'table' or answer >= 0 then
    if ttl == '' then call('PERSIST', key) end
    if ttl ~= '' then call('PEXPIRE', key, ttl) end
  end
  answers[i] = answer
end
return answers
"""
)

TAKE = LuaScript(
    """\
-- KEYS: values, then as many records. ARGV: how values begin that are returned, their most bytes. Deletes all.
local call, n, found = redis.call, #KEYS / 2, {}
local begin, most = ARGV[1], tonumber(ARGV[2])
for i = 1, n do
  found[i] = false
  local head = redis.pcall('GETRANGE', KEYS[i], 0, #begin - 1)
  if type(head) == 'table' and not string.find(head.err, 'WRONGTYPE') then
    call('GETRANGE', KEYS[i], 0, 0)
  end
  if head == begin then
    if call('STRLEN', KEYS[i]) <= most then
      found[i] = call('GET', KEYS[i])
    end
  end
end
call('UNLINK', unpack(KEYS))
return found
"""
)


def arrive_calls(
    arrivals: Sequence[Arrival], around: tuple[bytes, bytes], ttl_ms: int | None, most: int
) -> Iterator[tuple[list[bytes], list[Any]]]:
    """Yield keys and arguments of `ARRIVE`: for one call, or for several if one would hold the server up.

    A record's key has `around` before and behind it. A call has `most` records at most. Raises ValueError if an arrival
    contradicts itself.
    """
    before, behind = around
    keys: list[bytes] = []
    first = b"" if ttl_ms is None else ttl_ms
    arguments: list[Any] = [first]
    size_bytes = 0
    for arrival in arrivals:
        members, of, value = arrival.members, arrival.of, arrival.value
        flags = _ONLY_IF_LAST if arrival.only_if_last else 0
        keys.append(before + arrival.record + behind)
        if value is None:
            arguments += (of, flags, arrival.claimant)
        else:
            arguments += (of, flags | _HAS_VALUE, arrival.claimant, value)
            size_bytes += len(value)
        if len(members) == 1 and 0 <= (member := members[0]) < of:
            arguments += (1, member >> 5, 1 << (member & 31))
        else:
            words = _words(members, of)
            arguments.append(len(words))
            for word in sorted(words):
                arguments += (word, words[word])
        if len(keys) >= most or len(arguments) >= _CALL_ARGUMENTS or size_bytes >= _CALL_BYTES:
            yield keys, arguments
            keys, arguments, size_bytes = [], [first], 0
    if keys:
        yield keys, arguments


def outcomes(answers: Sequence[Any], arrivals: Sequence[Arrival]) -> list[Outcome]:
    """Return what the answers of `ARRIVE` mean. Raises ValueError if an arrival contradicts its record."""
    found = []
    for n, answer in enumerate(answers):
        if type(answer) is not int:
            found.append(Outcome(True, True, tuple(answer)))
        elif answer >= 0:
            found.append(_ANSWERS[answer])
        else:
            raise ValueError(f"The fan-in has {-answer} members, and an arrival says {arrivals[n].of}.")
    return found


def sized(keys: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """Yield the keys in portions of `most` at most."""
    for at in range(0, len(keys), most):
        yield keys[at : at + most]


_ANSWERS = (Outcome(False, False), Outcome(True, False), Outcome(False, False, give_way=True))


def _words(members: Sequence[int], of: int) -> dict[int, int]:
    if not members:
        raise ValueError("An arrival has at least one member.")
    words: dict[int, int] = {}
    for member in members:
        if not 0 <= member < of:
            raise ValueError(f"Member {member} is not in a fan-in of {of}.")
        word = member >> 5
        words[word] = words.get(word, 0) | 1 << (member & 31)
    return words
