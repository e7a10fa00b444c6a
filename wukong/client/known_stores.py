"""The stores that a plan compares: how long their operations take, and what they cost.

Latencies and rates are typical ones of AWS's, as the plug-ins declare them, not measured. A Redis node is paid for a
minute at least, and takes as long to start, which is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from wukong.backends.storage.dynamodb import price
from wukong.backends.storage.fargate.options import Shape
from wukong.backends.storage.fargate.price import rent
from wukong.planning.store_model import StoreModel, StorePrices

_TABLE = StorePrices(price.WRITE_UNIT_USD, price.READ_UNIT_USD)

REDIS_NODE = StoreModel(
    "Redis (fargate)",
    0.0005,
    250e6,
    prices=StorePrices(per_s=rent(1, Shape()).usd_per_s, least_s=60.0),
)
DYNAMODB = StoreModel(
    "DynamoDB",
    0.005,
    50e6,
    large_bytes=65_536,
    large_s=0.005,
    piece_bytes=390 * 1_024,
    prices=_TABLE,
)
DYNAMODB_S3 = StoreModel(
    "DynamoDB and S3",
    0.005,
    80e6,
    large_bytes=32_768,
    large_s=0.02,
    bucket=True,
    prices=StorePrices(price.WRITE_UNIT_USD, price.READ_UNIT_USD, price.PUT_USD, price.GET_USD),
)
KNOWN: Sequence[StoreModel] = (DYNAMODB_S3, DYNAMODB, REDIS_NODE)
