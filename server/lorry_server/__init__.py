"""The multi-adapter inference server."""
