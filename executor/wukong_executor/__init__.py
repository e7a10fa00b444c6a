"""What runs in a function of AWS Lambda, and nothing else: `handler` is what the platform calls.

`log` and `isolation` keep invocations in one process apart; `warm` is what they share. What does not depend on the
platform is in `wukong.backends.entry`, which the functions of every backend run.
"""
