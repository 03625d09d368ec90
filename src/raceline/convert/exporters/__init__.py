"""Scripts that run in a child process beside the framework they need; see `exporting.run`.

Each is a plain file that imports only the standard library and its framework, so that it also runs in another
environment that has the framework and no Raceline.
"""
