"""Programs that show and check what the package does; run them with ``python -m``."""
