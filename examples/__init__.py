"""Agents that really run, offline or with Claude: see README.md."""
