"""What readers know of each source's file format and operators; one package a format, unknown to the others."""
