"""What is the same for all stacks."""

LOOPBACK = "127.0.0.1"
CIPHER = "ECDHE-ECDSA-AES128-GCM-SHA256"
GROUP = "P-256"
MTU = 1350
MESSAGE_SIZE = 1200
PATIENCE = 10.0
"""Seconds after which a process that says nothing has failed."""
