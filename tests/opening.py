"""Sessions of every engine, also of the one that takes only some models."""

from raceline import engines
from raceline.core.errors import BadModelError


def opened(name, model, options):
    """A session of the engine. The native one refuses models that give its kernels nothing to do; what it does
    with the parts that are not its own is held to the same contract."""
    engine = engines.load(name)
    try:
        return engine.load(model, options)
    except BadModelError as error:
        if name != "native" or "nothing here for the native kernels" not in str(error):
            raise
        return engine.assemble(model, options)
