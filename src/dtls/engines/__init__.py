"""The TLS engines that protect and open records."""
