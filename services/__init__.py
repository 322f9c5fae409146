"""Processes that answer over gRPC, and the people's tools that ask them."""
