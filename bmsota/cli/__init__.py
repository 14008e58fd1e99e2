"""The command line `bmsota`: thin commands over the library. This is an edge; the cores do not import it."""
