"""One file a model format.

A reader has

- `description`: one line;
- `extensions`: of its files, each with its dot; none for folders;
- `extra`: of Raceline, that installs the framework it needs; empty where it needs none;
- `recognises(path) -> bool`: whether the file looks like one of its own, at little cost;
- `read(path, *, limits=None, ...) -> Model`: read and check; further keyword arguments are its options;
- `example(folder) -> Path`: write the smallest useful model;
- `answer(inputs) -> outputs`: what the example computes, in plain NumPy;
- optionally `operators() -> list[str]`: the source's operators that it has a rule for, in the source's own words
  (`raceline convert formats` and docs/formats.md count them);
- optionally `landmark: str`: a file whose name alone tells that its folder is one of the format.

A file that no reader recognises goes to the one that its name speaks for, whose `read` then says what is wrong with
it; so `read` must be quick to refuse what `recognises` denies, and must not run it.

And, where its framework holds models in memory,

- `takes(source) -> bool`: whether an object is such a model, without importing the framework;
- `read_object(source, *, limits=None, ...) -> Model`: read it.
"""
