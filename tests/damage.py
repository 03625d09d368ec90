"""Damage for files that readers must read or refuse, never fall over."""


def flipped(data, generator):
    """The bytes with one to three of them changed."""
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        changed[int(generator.integers(0, len(changed)))] ^= int(generator.integers(1, 256))
    return bytes(changed)
