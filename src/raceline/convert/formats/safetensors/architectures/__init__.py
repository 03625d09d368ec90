"""One file an architecture; its name is what `architecture=` takes.

An architecture has

- `model_types`: the names that a config.json has for it;
- `fits(names) -> bool`: whether these weights tell the architecture without a config.json;
- `build(b, weights, config) -> outputs`: add inputs, take every weight, and return the outputs by name.
"""
