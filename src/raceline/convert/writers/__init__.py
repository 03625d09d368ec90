"""One file a format that models are written in.

A writer has

- `description`: one line;
- `extension`: of its main file, with its dot; empty where it writes a folder;
- `extra`: of Raceline, that installs the converter and the runtime it needs;
- `exact_types`: whether the format's runtime keeps every element type; else its outputs are compared as numbers;
- `write(model, path, **options) -> list[Path]`: write, whole or not at all, the main file first;
- `run(path, cases, **options) -> list of outputs`: run what was written in its own runtime, in a child process,
  once for each of the cases (input name -> array); it takes the options of `write`;
- `tolerance(**options) -> Tolerance`: how far its outputs may be from the reference;
- `example() -> Model`: the smallest useful model that it takes.

`writing.write` and `writing.prove` are how they are used.
"""
