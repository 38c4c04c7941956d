"""Generated from api/proto/goloves/v1/goloves.proto by scripts/proto.py."""
