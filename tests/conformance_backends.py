"""FaaS backends that break one promise each, most of them subclasses of the example `wukong_threads.ThreadsFaaS`."""

import inspect
import threading
import time
from dataclasses import replace
from types import ModuleType

from wukong_threads import ThreadsFaaS, platform

from wukong.backends.faas import Bill, FaaS, Failure, FunctionSize, Invocation, TaskOutput
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, PayloadTooLarge
from wukong.testing.faas_functions import conform

BACKENDS: dict[str, tuple[type[FaaS], set[str]]] = {}
"""By name: the class, and the tests of the conformance suite that have to see what is wrong with it."""


def changed(name, old, new):
    """A backend whose platform is the example's with one piece of its source replaced."""
    source = inspect.getsource(platform)
    assert source.count(old) == 1, f"the example has moved on: {old!r}"
    module = ModuleType(name)
    exec(compile(source.replace(old, new), f"<{name}>", "exec"), module.__dict__)

    def begin(self, **options):
        ThreadsFaaS.__init__(self, **options)
        self._platform = module.Platform(options["function"], options["slots"], options.get("time_s"))

    BACKENDS[name] = type(name, (ThreadsFaaS,), {"__init__": begin}), set()
    return lambda *tests: BACKENDS[name][1].update(tests)


def caught_by(*tests):
    """Add a class to `BACKENDS`."""

    def add(cls):
        BACKENDS[cls.__name__] = cls, set(tests)
        return cls

    return add


@caught_by("test_is_a_backend_that_declares_its_limits_and_latency")
class TakesNoTime(ThreadsFaaS):
    latency_s = 0.0


@caught_by("test_is_a_backend_that_declares_its_limits_and_latency")
class HasSizesInAnyOrder(ThreadsFaaS):
    def __init__(self, **options):
        super().__init__(**options)
        self.limits = replace(self.limits, memory_bytes=1 << 30, sizes=(1 << 30, 4 << 30, 2 << 30))


@caught_by("test_what_it_costs_is_a_bill_or_nothing")
class PaysForMuch(ThreadsFaaS):
    def bill(self, invocations, requests, wall_s):
        return Bill(invocations, requests, wall_s, 1.0 - wall_s / 1_000, "of my own") if invocations else None


@caught_by("test_the_sizes_that_functions_could_have_come_the_smallest_first")
class ComesInAnyOrder(ThreadsFaaS):
    def sizes(self):
        return [FunctionSize(mb << 20, 1.0, 0.0) for mb in (1_024, 512)]


@caught_by("test_what_it_costs_is_a_bill_or_nothing")
class CountsNothing(ThreadsFaaS):
    def billed_requests(self, payload_bytes):
        return payload_bytes // 64_000


@caught_by("test_the_spec_is_plain_data")
class SpecOfObjects(ThreadsFaaS):
    def spec(self):
        return PluginSpec("wukong_threads.worker:attach", {"slots": (1, 2)})


@caught_by("test_a_function_invokes_others")
class SpecOfNothing(ThreadsFaaS):
    def spec(self):
        return PluginSpec("wukong_threads.nowhere:attach")


@caught_by("test_a_function_sees_the_limits_and_slots_that_the_client_sees")
class ForgetsItsLimits(ThreadsFaaS):
    def spec(self):
        return PluginSpec("wukong_threads.worker:attach")


@caught_by("test_functions_find_what_the_client_configures")
class ConfiguresNothing(ThreadsFaaS):
    def configure(self, environment):
        return


@caught_by("test_nothing_that_is_configured_travels_in_the_spec")
class TellsItsSecrets(ThreadsFaaS):
    def configure(self, environment):
        self.variables = dict(environment)

    def spec(self):
        return PluginSpec(super().spec().target, self.variables)


@caught_by("test_nothing_that_is_configured_travels_in_the_spec")
class TellsItsToken(ThreadsFaaS):
    def environment(self):
        return {"TOKEN": "open sesame"}

    def __repr__(self):
        return f"TellsItsToken({self.environment()})"


@caught_by("test_hints_and_cancelling_what_is_not_there_are_no_errors")
class TakesHintsForOrders(ThreadsFaaS):
    def prepare(self, modules):
        for module in modules:
            __import__(module)


@caught_by("test_output_that_is_told_says_whose_it_is")
class MixesUpOutput(ThreadsFaaS):
    def subscribe(self, callback):
        callback(TaskOutput("job/another", None, "stdout", "one line"))


@caught_by("test_closing_twice_is_no_error")
class ClosesOnce(ThreadsFaaS):
    def close(self):
        assert not self._platform._closed
        super().close()


@caught_by("test_closing_with_functions_at_work_is_no_error")
class ClosesWhenIdle(ThreadsFaaS):
    def close(self):
        busy = bool(self._platform._running)
        super().close()
        assert not busy


@caught_by("test_a_closed_backend_works_or_says_so_with_an_error_of_wukongs")
class LetsItsQueueSpeak(ThreadsFaaS):
    def invoke(self, invocations):
        if self._platform._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        super().invoke(invocations)


@caught_by("test_an_invocation_runs_at_least_once")
class RunsNothing(ThreadsFaaS):
    def invoke(self, invocations):
        return


@caught_by("test_invoking_nothing_is_no_error")
class WantsWork(ThreadsFaaS):
    def invoke(self, invocations):
        assert invocations[0]
        super().invoke(invocations)


@caught_by("test_invoke_returns_while_the_function_runs")
class Synchronous(ThreadsFaaS):
    def invoke(self, invocations):
        super().invoke(invocations)
        while self._platform._queue or self._platform._busy:
            time.sleep(0.01)


@caught_by("test_each_of_a_batch_of_100_runs")
class BatchesOfAtMost64(ThreadsFaaS):
    def invoke(self, invocations):
        super().invoke(invocations[:64])


@caught_by("test_the_same_invocation_can_be_made_again")
class OnceForEachId(ThreadsFaaS):
    def invoke(self, invocations):
        seen = self.__dict__.setdefault("seen", set())
        super().invoke([each for each in invocations if each.id not in seen])
        seen.update(each.id for each in invocations)


@caught_by("test_ids_may_be_long")
class ShortIds(ThreadsFaaS):
    def invoke(self, invocations):
        assert all(len(each.id) <= 80 for each in invocations)
        super().invoke(invocations)


@caught_by("test_payloads_arrive_byte_for_byte")
class PayloadsAreLines(ThreadsFaaS):
    def invoke(self, invocations):
        super().invoke([Invocation(each.id, each.payload.replace(b"\r", b"")) for each in invocations])


@caught_by("test_a_payload_over_the_limit_is_refused_before_any_starts")
class RefusesOneByOne(ThreadsFaaS):
    def invoke(self, invocations):
        for each in invocations:
            super().invoke([each])


@caught_by("test_a_payload_over_the_limit_is_refused_before_any_starts")
class RefusesWithoutReason(ThreadsFaaS):
    def invoke(self, invocations):
        try:
            super().invoke(invocations)
        except PayloadTooLarge:
            raise PayloadTooLarge("too large") from None


@caught_by("test_threads_invoke_at_once")
class OneThreadAtATime(ThreadsFaaS):
    def invoke(self, invocations):
        self.batch = invocations
        time.sleep(0.001)
        super().invoke(self.batch)


@caught_by("test_an_idle_platform_has_a_free_slot_and_tells_without_asking_anybody")
class HasNoSlots(ThreadsFaaS):
    def free_slots(self):
        return 0


@caught_by("test_an_idle_platform_has_a_free_slot_and_tells_without_asking_anybody")
class AsksForItsSlots(ThreadsFaaS):
    def free_slots(self):
        time.sleep(0.01)
        return super().free_slots()


@caught_by("test_an_idle_platform_has_a_free_slot_and_tells_without_asking_anybody")
class CountsForLong(ThreadsFaaS):
    def free_slots(self):
        end_s = time.thread_time() + 0.02
        while time.thread_time() < end_s:
            pass
        return super().free_slots()


@caught_by("test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process")
class SaysTheSameOfSlotsThatNobodyDeclares(ThreadsFaaS):
    def __init__(self, **options):
        super().__init__(**options | {"slots": 5})
        self.limits = replace(self.limits, concurrency=None)

    def free_slots(self):
        return 64


@caught_by("test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process")
class CountsNoRunners(ThreadsFaaS):
    def free_slots(self):
        return self.limits.concurrency


@caught_by("test_a_function_that_raises_has_failed_if_the_platform_tells")
class HearsNoException(ThreadsFaaS):
    def failures(self):
        return [failure for failure in super().failures() if failure.reason != "error"]


@caught_by("test_ids_may_be_long")
class ReportsShortIds(ThreadsFaaS):
    def invoke(self, invocations):
        super().invoke([Invocation(each.id[:200], each.payload) for each in invocations])


@caught_by("test_functions_find_what_the_client_configures")
class ConfiguresItsFirstWorker(ThreadsFaaS):
    def configure(self, environment):
        drive = self._platform._drive

        def first(worker, invocation, _):
            self.__dict__.setdefault("first", worker)
            return drive(worker, invocation, dict(environment) if worker is self.first else {})

        self._platform._drive = first


changed("HashesAtRandom", '"PYTHONHASHSEED": "0"', '"PYTHONHASHSEED": "random"')(
    "test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process"
)
changed("ReportsWhatItCancels", "if worker.cancelled or self._closed:", "if self._closed:")(
    "test_what_is_cancelled_is_no_failure"
)
changed("EndsNothingAtItsLimit", "None if self._time_s is None else time.monotonic() + self._time_s", "None")(
    "test_a_function_ends_at_its_time_limit"
)


@caught_by("test_closing_with_functions_at_work_is_no_error")
class LeavesItsProcesses(ThreadsFaaS):
    def close(self):
        return


@caught_by("test_a_platform_that_cannot_be_reached_says_so_with_an_error_of_wukongs")
class LetsItsVendorSpeak(ThreadsFaaS):
    def invoke(self, invocations):
        raise ConnectionRefusedError("the vendor's own")


@caught_by("test_a_platform_that_cannot_be_reached_says_so_with_an_error_of_wukongs")
class LetsItsVendorTellWhatItHas(ThreadsFaaS):
    def invoke(self, invocations):
        raise BackendError("no answer")

    def known(self, ids):
        raise ConnectionRefusedError("the vendor's own")


@caught_by("test_free_slots_are_a_count_or_unknown")
class AnyNumberOfSlots(ThreadsFaaS):
    def free_slots(self):
        return 1_000


@caught_by("test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process")
class LessThanNoSlots(ThreadsFaaS):
    def free_slots(self):
        return self._platform._slots - len(self._platform._running) - len(self._platform._queue)


@caught_by("test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process")
class PromisesSlots(ThreadsFaaS):
    def free_slots(self):
        return super().free_slots() + 2


@caught_by(
    "test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process",
    "test_a_function_that_fails_harms_nobody_else",
)
class InTheClient(FaaS):
    def __init__(self, **_):
        self.reported = []

    def invoke(self, invocations):
        for each in invocations:
            threading.Thread(target=self.run, args=(each,), daemon=True).start()

    def run(self, invocation):
        try:
            conform(invocation.payload)
        except BaseException as error:
            self.reported.append(Failure(invocation.id, "error", repr(error)))

    def failures(self):
        reported, self.reported = self.reported, []
        return reported

    def spec(self):
        return PluginSpec(f"{__name__}:InTheClient")


@caught_by("test_a_function_that_fails_harms_nobody_else")
class AllInOneBoat(ThreadsFaaS):
    def __init__(self, **options):
        super().__init__(**options)
        self._platform._drive = self.drive

    def drive(self, *arguments):
        failure = platform.Platform._drive(self._platform, *arguments)
        if failure is not None and failure.reason == "crash":
            self._platform.cancel("")
        return failure


@caught_by("test_a_function_that_fails_harms_nobody_else")
class ReportsForEver(ThreadsFaaS):
    def failures(self):
        kept = self.__dict__.setdefault("kept", [])
        kept += super().failures()
        return list(kept)


@caught_by("test_no_failure_is_reported_if_none_happened")
class CriesWolf(ThreadsFaaS):
    def failures(self):
        return [Failure("job/0", "crash", "perhaps")]


@caught_by("test_what_is_queued_or_runs_is_known_and_nothing_else")
class ForgetsItsQueue(ThreadsFaaS):
    def known(self, ids):
        return [each for each in ids if each in self._platform._running]


@caught_by("test_what_is_queued_or_runs_is_known_and_nothing_else")
class RemembersForEver(ThreadsFaaS):
    def known(self, ids):
        seen = self.__dict__.setdefault("seen", set())
        seen.update(super().known(ids))
        return [each for each in ids if each in seen]


@caught_by("test_what_is_queued_or_runs_is_known_and_nothing_else")
class LosesItsDead(ThreadsFaaS):
    def failures(self):
        return []


@caught_by("test_cancelling_one_job_leaves_others_alone")
class CancelsEverything(ThreadsFaaS):
    def cancel(self, prefix):
        super().cancel("")


@caught_by("test_cancelling_one_job_leaves_others_alone")
class CancelsWhatContainsIt(ThreadsFaaS):
    def cancel(self, prefix):
        for invocation in list(self._platform._running):
            if prefix in invocation:
                super().cancel(invocation)
