"""Which proxy leads to an API server: the rules of Go's httpproxy."""

from __future__ import annotations

import pytest

from clusterdns.cluster.api.location import proxy_of, url_of
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError

API = "https://192.0.2.7:6443"
NAMED = "https://api.example.com"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (API, {}, ""),
        (API, {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        (API, {"https_proxy": "http://p:3128"}, "http://p:3128"),
        (API, {"HTTPS_PROXY": "http://other", "https_proxy": "http://p"}, "http://p"),
        (API, {"HTTPS_PROXY": "http://p", "https_proxy": ""}, "http://p"),
        (API, {"HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        (API, {"HTTPS_PROXY": "p"}, "http://p"),
        (API, {"HTTPS_PROXY": "192.0.2.1:80"}, "http://192.0.2.1:80"),
        (API, {"HTTPS_PROXY": "user:word@p:3128"}, "http://user:word@p:3128"),
        (API, {"HTTPS_PROXY": "https://p"}, "https://p"),
        (API, {"ALL_PROXY": "http://p", "all_proxy": "http://p"}, ""),
        (API, {"HTTP_PROXY": "http://p"}, ""),
        ("http://192.0.2.7", {"HTTP_PROXY": "http://p"}, "http://p"),
        ("http://192.0.2.7", {"HTTPS_PROXY": "http://p"}, ""),
        ("http://192.0.2.7", {"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, ""),
        ("https://localhost:6443", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://127.8.8.8:6443", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://[::1]:6443", {"HTTPS_PROXY": "http://p"}, ""),
    ],
)
def test_the_proxy_of_the_environment(url, environ, proxy):
    assert proxy == proxy_of(url, environ)


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_direct"),
    [
        (API, "*", True),
        (API, "other, *", True),
        (API, "192.0.2.7", True),
        (API, " 192.0.2.7 ,x", True),
        (API, "192.0.2.7:6443", True),
        (API, "192.0.2.7:443", False),
        (API, "192.0.2.0/24", True),
        (API, "192.0.2.7/24", True),
        (API, "192.0.3.0/24", False),
        (API, "2001:db8::/32", False),
        (API, ".2.7", False),
        (API, "7", False),
        ("https://[2001:db8::7]", "2001:db8::/32", True),
        ("https://[2001:db8::7]", "2001:db8:0::7", True),
        ("https://[2001:db8::7]", "[2001:db8::7]:443", True),
        ("https://[2001:db8::7]", "[2001:db8::7]:6443", False),
        (NAMED, "api.example.com", True),
        (NAMED, "API.Example.COM", True),
        (NAMED, "example.com", True),
        (NAMED, ".example.com", True),
        (NAMED, "*.example.com", True),
        (NAMED, ".api.example.com", False),
        (NAMED, "*.api.example.com", False),
        (NAMED, "xample.com", False),
        (NAMED, "example.com:443", True),
        (NAMED, ".example.com:443", True),
        (NAMED, "example.com:6443", False),
        (NAMED, ":443", False),
        (NAMED, ",,", False),
        (NAMED, "192.0.2.0/24", False),
        ("https://api.example.com:6443", "example.com:6443", True),
    ],
)
def test_no_proxy(url, no_proxy, is_direct):
    for name in ("NO_PROXY", "no_proxy"):
        assert ("" if is_direct else "http://p") == proxy_of(
            url, {"HTTPS_PROXY": "p", name: no_proxy}
        )


@pytest.mark.parametrize("text", ["socks5://user:secret@p", "user:secret@p:99999"])
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(text):
    with pytest.raises(ApiError) as caught:
        proxy_of(API, {"HTTPS_PROXY": text})
    assert "HTTPS_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "" == proxy_of(API, {"HTTPS_PROXY": text, "NO_PROXY": "192.0.2.7"})


def test_the_server_of_the_cluster_we_run_in():
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert "https://[fd00::1]:443" == url_of(Source("", ()), inside)
    assert API == url_of(Source("", (), endpoint=API), inside)
    with pytest.raises(ApiError, match="KUBERNETES_SERVICE_HOST"):
        url_of(Source("", ()), {})
