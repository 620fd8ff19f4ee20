"""The command `kalshibook`."""
