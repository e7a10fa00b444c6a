"""The deployment's store in DynamoDB: a table in the stack, a bucket beside it, and what functions may do with both.

    clients, functions --> table NAME                              fan-ins, small values; items expire
                       --> bucket NAME-values-ACCOUNT-REGION       large values; its lifecycle is a day

Both have the names that `wukong.backends.storage.dynamodb` looks for. The bucket is no part of the stack, because
CloudFormation cannot delete one that has objects in it, and takes two dozen permissions to make one:
`wukong.deploy.bucket` makes, empties and removes it.
"""

from __future__ import annotations

from wukong.deploy.bucket import bucket_arn
from wukong.deploy.options import DeployOptions
from wukong.deploy.parts import DELETED, TemplatePart, allow, arn

_ITEMS = ("BatchGetItem", "BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "UpdateItem")


def table(options: DeployOptions) -> TemplatePart:
    """The table, if the deployment has one, and the functions' permissions for table and bucket."""
    if not options.has_table:
        return TemplatePart()
    bucket = bucket_arn(options.name, "values")
    return TemplatePart(
        resources={
            "Table": {
                "Type": "AWS::DynamoDB::Table",
                **DELETED,
                "Properties": {
                    "TableName": options.table_name,
                    "BillingMode": "PAY_PER_REQUEST",
                    "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "B"}],
                    "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
                    "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True},
                },
            }
        },
        statements=[
            allow(
                "UseOwnTable", [f"dynamodb:{each}" for each in _ITEMS], [arn(f"dynamodb:{{here}}:table/{options.name}")]
            ),
            allow("UseOwnValues", ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], [{"Fn::Sub": f"{bucket}/*"}]),
            # Without it S3 says of an object that is not there that access to it is denied.
            allow("SeeThatValuesAreMissing", ["s3:ListBucket"], [{"Fn::Sub": bucket}]),
        ],
    )
