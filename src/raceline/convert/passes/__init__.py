"""One file a rewrite of the graph."""
