"""The servers that are measured, each run as a process of its own: `python -m bench.servers NAME FD DIRECTORY`.

Every module has one function, `serve(directory, ready)`: it serves the agent of `bench.agents`, keeps its files in
`directory`, calls `ready` with its address once, and returns when it is told to stop (SIGTERM). All of them run on uvloop,
as Dragoman does, so that the event loop makes no difference between them.
"""
