"""What tasks run in deployed functions, which import this file, and have no pytest."""

import time


def slow_add(a: int, b: int) -> int:
    time.sleep(0.02)
    return a + b


def add(*numbers: int) -> int:
    print("adding", *numbers)
    return sum(numbers)
