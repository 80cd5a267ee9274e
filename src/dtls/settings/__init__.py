"""What a :class:`dtls.Context` can be told, a module for each concern; ``dtls.context`` puts them together."""
