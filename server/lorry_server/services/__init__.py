"""What stands between grpc and the engine: text, references, deadlines. No weights, no device."""
