"""The engine: token ids, digests and numbers in, token ids out. No grpc, no names, no tokenizer, no text."""
