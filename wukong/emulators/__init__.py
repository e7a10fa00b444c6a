"""Services of clouds that run on this machine: for people offline, and for tests.

`aws_lambda` runs functions as AWS Lambda does (``wukong emulate lambda``), `aws_ecs` tasks as AWS ECS does.
"""
