"""Dragoman beside its peers: what it costs a server to stream the same agent. See README.md."""
