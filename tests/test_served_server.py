"""How a config names a server: what is refused before anything is sent, and what is never written down."""

import dataclasses
import http.server
import json
import shutil
import ssl
import subprocess
import threading

import pytest
from made_server import Waits

from jaxalign.config.load import validate
from jaxalign.config.resolved import dumps
from jaxalign.errors import ConfigError, ServerError
from jaxalign.served.client import Client, Request
from jaxalign.served.retries import Retries
from jaxalign.served.said import Said
from jaxalign.served.server import Server

HERE = Server("http://localhost:8000/v1", "judge", "answers")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "localhost:8000"}, "url must be http://HOST:PORT/v1 or https://HOST/v1"),
        ({"url": "ftp://host/v1"}, "url must be http://HOST:PORT/v1 or https://HOST/v1"),
        ({"url": "http:///v1"}, "url must be http://HOST:PORT/v1 or https://HOST/v1"),
        ({"url": "http://host:port/v1"}, "url is none: Port could not be cast"),
        ({"url": "https://me:secret@host/v1"}, "url must hold no user and no password"),
        ({"url": "https://host/v1?key=secret"}, "url must end with its path"),
        ({"url": "http://host/v1", "key_variable": "KEY"}, "url must be https where a key is sent"),
        ({"url": "$not-a-name"}, r"url is no \$NAME"),
        ({"key_variable": "sk-secret-12345"}, "key_variable must be the name of an environment variable, and never"),
        ({"model": ""}, "model must not be empty"),
        ({"answers": ""}, "answers must not be empty"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"max_failures": 0}, "max_failures must be at least 1"),
        ({"max_requests": 0}, "max_requests must be at least 1 or None"),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be positive"),
        ({"retries": Retries(attempts=0)}, "retries: attempts must be at least 1"),
        ({"retries": Retries(first_seconds=-1.0)}, "retries: first_seconds must be at least 0"),
    ],
)
def test_settings_that_could_not_work_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        validate(dataclasses.replace(HERE, **changes))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "server",
    [
        HERE,
        dataclasses.replace(HERE, key_variable="KEY"),
        dataclasses.replace(HERE, url="$JUDGE_URL", key_variable="KEY"),
        dataclasses.replace(HERE, url="https://api.example.com/v1", key_variable="KEY"),
        dataclasses.replace(HERE, url="http://[::1]:8000/v1", key_variable="KEY"),
    ],
)
def test_settings_that_can_work_are_none(server):
    validate(server)


def test_an_address_is_read_from_the_environment_when_it_is_needed():
    server = dataclasses.replace(HERE, url="$JUDGE_URL")
    address = server.address({"JUDGE_URL": "https://host/api/v1/"})
    assert (address.secure, address.host, address.port, address.base) == (True, "host", 443, "/api/v1")
    assert str(address) == "https://host:443/api/v1"
    with pytest.raises(ConfigError, match="environment variable JUDGE_URL is not set, and url reads it"):
        server.address({})
    with pytest.raises(ConfigError, match=r"^environment variable JUDGE_URL: url must hold no user") as refused:
        server.address({"JUDGE_URL": "http://me:secret@host/v1"})
    assert "secret" not in str(refused.value)
    keyed = dataclasses.replace(server, key_variable="KEY")
    with pytest.raises(ConfigError, match="url must be https where a key is sent"):
        keyed.address({"JUDGE_URL": "http://host/v1", "KEY": "secret"})


def test_what_a_run_writes_of_its_config_holds_the_name_of_the_variable_alone(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    server = dataclasses.replace(HERE, key_variable="JUDGE_KEY")
    assert json.loads(dumps(server))["key_variable"] == "JUDGE_KEY"
    assert "sk-very-secret" not in dumps(server) + repr(server) + repr(server.address())


@pytest.fixture
def certificate(tmp_path):
    """Of localhost, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate needs openssl")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command, *files], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


class Ok(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"choices": [{"text": "hello"}]}')

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


class Secure(http.server.HTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust it hangs up."""


def test_certificates_are_checked_and_others_can_be_trusted_by_name(certificate, tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Secure(("127.0.0.1", 0), Ok) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        url = f"https://localhost:{made.server_address[1]}/v1"
        server = dataclasses.replace(HERE, url=url, answers=str(tmp_path / "answers"))
        question = Request("/completions", {"model": "judge", "prompt": "x"})
        with Client(server, clock=Waits().clock) as client:
            with pytest.raises(ServerError, match="its certificate is not trusted: self-signed certificate"):
                list(client.ask([question]))
            assert client.sent == 1
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
            ((_, found),) = client.ask([question])
        made.shutdown()
        thread.join()
    assert found == Said("hello", "")
