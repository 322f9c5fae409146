"""The inference service: forecasts by gRPC, from models that are named in a registry."""
