"""The table of networks, and short ways to enter one."""

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def chain(name, *shape, layers, dtype="float32"):
    """A case of layers one after another."""

    def build():
        import keras

        x = inputs = keras.Input(shape, dtype=dtype, name="x")
        for layer in layers(keras.layers):
            x = layer(x)
        return keras.Model(inputs, x)

    CASES[name] = build


def function(name, *shapes, body, dtype="float32"):
    """A case of some function of its inputs."""

    def build():
        import keras

        inputs = [keras.Input(shape, dtype=dtype, name=f"x{i}") for i, shape in enumerate(shapes)]
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], body(keras, *inputs))

    CASES[name] = build
