"""Cloud services that run on this machine: for work offline, and for tests.

`aws_lambda` runs functions as AWS Lambda does (``wukong emulate lambda``); `aws_ecs` runs tasks as AWS ECS does.
"""
