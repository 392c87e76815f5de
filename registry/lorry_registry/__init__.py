"""The catalogue of adapters: entities, checks, stores and the gRPC service over them. Imports no torch."""
