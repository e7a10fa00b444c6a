"""The client of a simulated job whose every decision is a choice (`wukong.testing.branching`)."""

from __future__ import annotations

from wukong.planning.world import check
from wukong.testing.branching import BranchingPlatform, word_of
from wukong.testing.choices import Calm
from wukong.testing.simulated_client import SimulatedClient

__all__ = ["BranchingClient"]

_LOOKS = 20


class BranchingClient(SimulatedClient):
    """The client, whose turn comes when it is chosen. It looks until it has done something."""

    platform: BranchingPlatform

    def __init__(self, platform: BranchingPlatform) -> None:
        super().__init__(platform, Calm())
        self.to_look = self.before = 0
        platform.client_state = self.state

    def state(self) -> int:
        """Return a hash of all that the client remembers; times count from now."""
        watch, now = self.watch, self.platform.client_clock
        seen = {(name, word_of(seen.beat), round(now - seen.since), seen.missed) for name, seen in watch._seen.items()}
        memory = (watch.tree.attempts, watch.tree.made, watch._failed)
        return hash(
            (
                frozenset(seen),
                *(frozenset(counter.items()) for counter in memory),
                frozenset(watch._replaced),
                frozenset(watch.tree.shared),
                (watch._stalled, watch.rounds, watch.repeated, round(watch._look_at - now)),
            )
        )

    def _turn(self) -> None:
        self.turns += 1
        check(self.turns <= 20 * _LOOKS, "the client waits for ever")
        platform, names = self.platform, self.names
        heartbeat_s = platform.case.policy.heartbeat_s
        if self.to_look and self.watch.repeated == self.before:
            self.to_look -= 1
            platform.client_clock += heartbeat_s
        else:
            self.to_look, self.before = 0, self.watch.repeated
            while not platform.move(client=True):
                pass
            if not platform.reports and names.done not in self.world.words:
                self.to_look, platform.suspects = _LOOKS, False
                platform.client_clock += heartbeat_s
        platform.now = platform.client_clock
