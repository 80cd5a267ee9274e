"""What stands behind the PyDTLS interface, whose own modules keep their names beside this package."""
