"""The command `dragoman`: thin commands, one file each.

    main      the command tree, and how an error becomes a sentence and an exit code
    serve     a server in this process; migrate, agents: the other commands that work without one
    chat, runs, usage, demo   clients of a running server, through `dragoman.client` like any other

Exit codes: 0 done, 1 failed, 2 used wrongly, 141 when nobody reads the output any more. Heavy rooms are imported inside commands, so that `--help` is quick.
"""
