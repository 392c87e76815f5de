"""gRPC in front of the catalogue. `errors` and `host` know nothing of registries: other services use them too."""
