"""The host's workers: forked, kept warm, taken, retired, reaped.

At most one is forked per turn of the host's loop: a fork costs 1 ms (6 ms when pandas and its friends are loaded), and
nobody else should wait for sixty of them.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from wukong.backends.faas.emulator.board import Board
from wukong.backends.faas.emulator.children import first_dead, own_group
from wukong.backends.faas.emulator.process import Child, end_group, group_lives, kill_group
from wukong.backends.faas.emulator.wire import Channel

_REFORK_S = 0.2
_GRACE_S = 1.0
"""How long a worker may take to end when it is asked to."""
_TRACKER_GRACE_S = 4.0
"""How long the processes that a worker's tasks have started may outlive it: resource trackers still clean up then."""
_LOOK_S = 0.002

Life = Callable[[socket.socket, int, int], None]
"""The main function of a worker. Takes its line to the host, its record on the board, the host's process id."""


class WorkerPool:
    """All workers of a host.

    Args:
        selector: the host's. on_event: called with a worker whose channel is ready, and for what.
        board: where workers have their records.

    Attributes:
        children: every one that has not been buried, by process id.
        busy: those that run something; the host puts them in.
        fork_wanted: a fork was refused because this turn had one.
        fork_from_s: no fork before this time (monotonic, seconds).
    """

    def __init__(self, selector: selectors.BaseSelector, board: Board, on_event: Callable[[Child, int], None]) -> None:
        self.children: dict[int, Child] = {}
        self.busy: dict[int, Child] = {}
        self.fork_wanted = False
        self.fork_from_s = 0.0
        self._idle: list[Child] = []
        self._selector = selector
        self._on_event = on_event
        self._records = list(range(board.records - 1, -1, -1))
        self._left_behind = dict.fromkeys(board.take_workers(), time.monotonic() + _TRACKER_GRACE_S)  # of a dead host
        for pid in self._left_behind:
            end_group(pid)
        self._board = board
        self._generation = 0
        self._may_fork = True
        self._pid = os.getpid()

    def next_turn(self, now_s: float) -> None:
        """Allow one fork more."""
        self._may_fork = now_s >= self.fork_from_s
        self.fork_wanted = False

    def living(self) -> int:
        """Return how many workers are busy or idle."""
        return len(self.busy) + len(self._idle)

    def take(self, life: Life) -> Child | None:
        """Return an idle worker, the one last used, or a new one; None if no fork is allowed now. Raises OSError."""
        return self._idle.pop() if self._idle else self._fork(life)

    def rest(self, child: Child) -> None:
        """Keep a worker for later; one that was forked before the last `renew` ends instead."""
        if child.generation != self._generation:
            self._retire(child)
            return
        child.idle_since_s = time.monotonic()
        self._idle.append(child)

    def keep_warm(self, wanted: int, life: Life) -> None:
        """Fork until `wanted` workers live, as far as forks are allowed now. Raises OSError."""
        while self.living() < wanted:
            child = self._fork(life)
            if child is None:
                return
            self.rest(child)

    def renew(self) -> None:
        """Replace all workers by new forks; those that run something, once it has ended."""
        self._generation += 1
        for child in self._idle:
            self._retire(child)
        self._idle.clear()

    def oldest_s(self, kept: int) -> float | None:
        """Return since when the worker that ends next has been idle; None if no more than `kept` live."""
        return self._idle[0].idle_since_s if self._idle and self.living() > kept else None

    def retire_idle(self, kept: int, since_s: float) -> None:
        """End workers that have been idle since before `since_s`, as long as more than `kept` live."""
        while (oldest_s := self.oldest_s(kept)) is not None and oldest_s <= since_s:
            self._retire(self._idle.pop(0))

    def _retire(self, child: Child) -> None:
        child.retired = True
        self.hang_up(child)

    def hang_up(self, child: Child) -> None:
        """Close the line to a worker; an idle worker then ends by itself."""
        if not child.hung_up:
            child.hung_up = True
            self._selector.unregister(child.channel.sock)
            child.channel.sock.close()

    def _fork(self, life: Life) -> Child | None:
        if not self._may_fork:
            self.fork_wanted = True
            return None
        if not self._records:
            return None
        self._may_fork = False
        ours, theirs = socket.socketpair()
        index = self._records.pop()
        try:
            pid = os.fork()
        except OSError:
            self._records.append(index)
            self.fork_from_s = time.monotonic() + _REFORK_S
            self.fork_wanted = True
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            self._live(ours, theirs, index, life)
        theirs.close()
        own_group(pid)
        self._board.live(index, pid)
        child = Child(pid, Channel(ours), index, self._generation)
        self.children[pid] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda events: self._on_event(child, events))
        return child

    def _live(self, ours: socket.socket, theirs: socket.socket, index: int, life: Life) -> NoReturn:
        status = 1
        try:
            ours.close()
            self._selector.close()
            for child in self.children.values():
                child.channel.sock.close()
            own_group(0)
            life(theirs, index, self._pid)
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)

    def dead(self, drain: Callable[[Child], None]) -> Iterator[tuple[Child, int]]:
        """Yield workers that have ended, with their status, once what they had sent has been drained."""
        while (found := first_dead()) is not None:
            pid, status = found
            child = self.children.get(pid)
            if child is not None and not child.hung_up:
                drain(child)
                self.hang_up(child)
            if status is None:
                if child is not None:
                    end_group(pid)  # what its tasks have started
                _, status = os.waitpid(pid, 0)
            if child is not None:
                if group_lives(pid):
                    self._left_behind[pid] = time.monotonic() + _TRACKER_GRACE_S
                yield child, status

    def end(self, child: Child) -> float:
        """Ask a worker to end; return when to `kill` it if it has not (monotonic, seconds)."""
        end_group(child.pid)
        return time.monotonic() + _GRACE_S

    def kill(self, child: Child) -> None:
        """Kill a worker that is still there."""
        if self.children.get(child.pid) is child:
            kill_group(child.pid)

    def kill_left_behind(self, now_s: float) -> float | None:
        """Kill processes that dead workers left too long ago; return when the next kill is due; None: no more."""
        for pid, due_s in list(self._left_behind.items()):
            lives = group_lives(pid)
            if lives and now_s >= due_s:
                kill_group(pid)
            if not lives or now_s >= due_s:
                del self._left_behind[pid]
        return min(self._left_behind.values(), default=None)

    def bury(self, child: Child) -> None:
        """Forget a worker that has ended and runs nothing any more."""
        del self.children[child.pid]
        if child in self._idle:
            self._idle.remove(child)
        if not child.turn and not child.retired:
            self.fork_from_s = time.monotonic() + _REFORK_S  # it died before it ran anything: wait before the next fork
        self._board.live(child.index, 0)
        self._records.append(child.index)

    def stop(self) -> None:
        """End all workers and what their tasks have started, and wait for them; kill what takes too long."""
        for pid in self.children:
            end_group(pid)
        began_s = time.monotonic()
        alive, groups = set(self.children), {*self.children, *self._left_behind}
        while groups:
            alive -= _reaped()
            groups = {pid for pid in groups if pid in alive or group_lives(pid)}
            elapsed_s = time.monotonic() - began_s
            for pid in groups if elapsed_s >= _TRACKER_GRACE_S else alive if elapsed_s >= _GRACE_S else ():
                kill_group(pid)
            if elapsed_s >= _TRACKER_GRACE_S + _GRACE_S:
                return
            time.sleep(_LOOK_S)


def freeze() -> None:
    """Hide all live objects from the garbage collector: a collection in a worker would copy their pages."""
    gc.collect()
    gc.freeze()


def _reaped() -> set[int]:
    """Wait for all children that have ended; return their ids."""
    found = set()
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            found.add(pid)
    except ChildProcessError:
        pass
    return found
