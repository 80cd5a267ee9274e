"""The tests that ``python3 -m dtls.test.unit_wrapper`` runs: ``dtls.wrapper`` over real sockets, as users see it."""

from .wrapper_network import WrapperNetworkTests
from .wrapper_parameters import WrapperParameterTests
from .wrapper_servers import WrapperServerTests

__all__ = ["WrapperNetworkTests", "WrapperParameterTests", "WrapperServerTests"]
