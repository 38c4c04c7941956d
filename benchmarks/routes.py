"""The requests that are measured."""

from benchmarks.load import Call, Request

TAGS = 1000
"""How many tags `t0`, `t1`, … there are, for requests that differ."""

ROUTES = {
    "segment get": Request("/api/segment/get/order"),
    "snowflake get": Request("/api/snowflake/get/order"),
    "segments ids": Request("/v1/segments/order/ids?count=1", "POST"),
    "snowflakes ids": Request("/v1/snowflakes/default/ids?count=1", "POST"),
}
"""The routes that the bars speak of, with requests that repeat their bytes."""

CHANGING = ("User-Agent: bench/1.0", "Accept: */*", "X-Request-Id: {random}")

DIFFERENT_ROUTES = {
    "segment get": Request("/api/segment/get/t{tag}", headers=CHANGING),
    "snowflake get": Request("/api/snowflake/get/t{tag}", headers=CHANGING),
    "segments ids": Request("/v1/segments/t{tag}/ids?count=1", "POST", CHANGING),
    "snowflakes ids": Request("/v1/snowflakes/default/ids?count=1", "POST", CHANGING),
}
"""The same with requests of which no two are alike."""

CALLS = {
    "SegmentService.Next": Call("/goloves.v1.SegmentService/Next", b"\x0a\x05order"),
    "SnowflakeService.Next": Call("/goloves.v1.SnowflakeService/Next", b"\x0a\x07default"),
}
"""The calls that the bars speak of; field 1 is the tag, or the space."""
