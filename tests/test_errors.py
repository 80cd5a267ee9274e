"""Whoever catches the errors of ssl and socket catches these, and finds the same attributes."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dtls import errors

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = [
    errors.SSLError(errors.SSL_ERROR_SSL, "no shared cipher", reason="NO_SHARED_CIPHER", library="SSL"),
    errors.SSLCertVerificationError("refused", verify_code=10, verify_message="certificate has expired"),
    errors.SSLWantReadError(),
    errors.SSLWantWriteError(),
    errors.SSLZeroReturnError(),
    errors.SSLTimeoutError("too slow"),
    errors.HandshakeTimeout("the handshake took too long"),
    errors.PeerUnreachable("nobody there"),
    errors.AssociationReplaced(),
    errors.AssociationExpired(),
    errors.MessageTooLarge("too long", limit=1200),
]
each_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


@each_error
def test_every_error_is_an_ssl_error_and_an_os_error(error: errors.SSLError) -> None:
    assert isinstance(error, errors.SSLError)
    assert isinstance(error, ssl.SSLError)
    assert isinstance(error, OSError)


def test_no_error_is_left_out_of_these_tests() -> None:
    defined = {value for value in vars(errors).values() if isinstance(value, type)}
    public = {
        kind for kind in defined if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
    }
    assert public == {type(error) for error in EXAMPLES}


@each_error
def test_an_error_reads_as_its_message_without_a_number(error: errors.SSLError) -> None:
    assert str(error) == error.strerror
    assert str(error)


@each_error
def test_reason_and_library_are_always_strings(error: errors.SSLError) -> None:
    assert isinstance(error.reason, str)
    assert isinstance(error.library, str)


def pickled(error: errors.SSLError) -> errors.SSLError:
    twin = pickle.loads(pickle.dumps(error))
    assert isinstance(twin, errors.SSLError)
    return twin


@pytest.mark.parametrize("again", [copy.copy, pickled])
@pytest.mark.parametrize(
    "error",
    EXAMPLES,
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_to_another_process_whole(
    error: errors.SSLError, again: Callable[[errors.SSLError], errors.SSLError]
) -> None:
    twin = again(error)
    assert type(twin) is type(error)
    assert twin.args == error.args
    assert twin.errno == error.errno
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (errors.SSLError, ssl.SSLError),
        (errors.SSLCertVerificationError, ssl.SSLCertVerificationError),
        (errors.CertificateError, ssl.CertificateError),
        (errors.SSLWantReadError, ssl.SSLWantReadError),
        (errors.SSLWantWriteError, ssl.SSLWantWriteError),
        (errors.SSLZeroReturnError, ssl.SSLZeroReturnError),
        (errors.SSLCertVerificationError, ValueError),
        (errors.SSLTimeoutError, TimeoutError),
        (errors.HandshakeTimeout, errors.SSLTimeoutError),
        (errors.PeerUnreachable, ConnectionRefusedError),
        (errors.AssociationReplaced, ConnectionResetError),
        (errors.MessageTooLarge, ValueError),
    ],
)
def test_each_error_is_what_it_is_in_the_standard_library(ours: type, theirs: type) -> None:
    assert issubclass(ours, theirs)


def test_a_timeout_is_no_refusal_and_wanting_to_read_is_no_wanting_to_write() -> None:
    assert not issubclass(errors.SSLTimeoutError, ConnectionError)
    assert not issubclass(errors.SSLWantReadError, ssl.SSLWantWriteError)
    assert not issubclass(errors.SSLWantWriteError, ssl.SSLWantReadError)
    assert not issubclass(errors.SSLWantReadError, TimeoutError)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.SSLWantReadError(), ssl.SSL_ERROR_WANT_READ),
        (errors.SSLWantWriteError(), ssl.SSL_ERROR_WANT_WRITE),
        (errors.SSLZeroReturnError(), ssl.SSL_ERROR_ZERO_RETURN),
        (errors.SSLCertVerificationError("x", verify_code=1, verify_message="y"), ssl.SSL_ERROR_SSL),
        (errors.SSLTimeoutError("x"), errno.ETIMEDOUT),
        (errors.HandshakeTimeout("x"), errno.ETIMEDOUT),
        (errors.PeerUnreachable("x"), errno.ECONNREFUSED),
        (errors.AssociationReplaced(), errno.ECONNRESET),
        (errors.MessageTooLarge("x", limit=1), errno.EMSGSIZE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OSError) else "",
)
def test_errno_is_the_number_that_ssl_and_the_system_use(error: OSError, number: int) -> None:
    assert error.errno == number


def test_the_numbers_are_those_of_the_ssl_module() -> None:
    for name in ("SSL", "WANT_READ", "WANT_WRITE", "SYSCALL", "ZERO_RETURN"):
        assert getattr(errors, f"SSL_ERROR_{name}") == getattr(ssl, f"SSL_ERROR_{name}")


def test_reason_and_library_are_kept_and_empty_when_not_given() -> None:
    error = errors.SSLError(1, "words", reason="NO_SHARED_CIPHER", library="SSL")
    assert (error.reason, error.library) == ("NO_SHARED_CIPHER", "SSL")
    error = errors.SSLError(1, "words")
    assert (error.reason, error.library) == ("", "")


def test_a_refused_certificate_says_why_in_number_and_words() -> None:
    error = errors.SSLCertVerificationError(
        "refused", verify_code=10, verify_message="certificate has expired"
    )
    assert (error.verify_code, error.verify_message) == (10, "certificate has expired")
    assert (error.reason, error.library) == ("CERTIFICATE_VERIFY_FAILED", "SSL")
    assert str(error) == "refused"


def test_a_message_that_is_too_large_says_how_large_it_may_be() -> None:
    assert errors.MessageTooLarge("too long", limit=1200).limit == 1200


def test_the_errors_work_on_a_python_without_the_ssl_module() -> None:
    program = """
import sys
sys.modules["ssl"] = None
from dtls import errors as e
all_errors = [
    e.SSLError(1, "m"), e.SSLCertVerificationError("m", verify_code=1, verify_message="v"),
    e.SSLWantReadError("m"), e.SSLWantWriteError("m"), e.SSLZeroReturnError("m"), e.SSLTimeoutError("m"),
    e.HandshakeTimeout("m"), e.PeerUnreachable("m"), e.AssociationReplaced(), e.MessageTooLarge("m", limit=1),
]
for error in all_errors:
    assert isinstance(error, e.SSLError) and isinstance(error, OSError), error
    assert error.strerror == str(error) and error.reason is not None, error
assert isinstance(all_errors[5], TimeoutError)
assert isinstance(all_errors[1], ValueError)
print("complete")
"""
    source = Path(errors.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "complete", result.stderr
