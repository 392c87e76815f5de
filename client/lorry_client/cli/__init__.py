"""The `lorry` command. Importing it is cheap: grpc, protobuf and rich wait until a command needs them."""
