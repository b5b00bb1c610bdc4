# SPDX-License-Identifier: Apache-2.0
"""Targets of gRPC: which of them are on this machine, and which a proxy of the environment applies to."""

import ipaddress
import os
import re
import socket
from urllib.parse import urlsplit

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables in the order in which gRPC reads them."""
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
_SCHEME = re.compile(r"dns:(?:///)?|ipv[46]:", re.IGNORECASE)
_NUMBERS = re.compile(r"[0-9.]+")


def is_on_this_machine(target: str) -> bool:
    """Return whether all addresses of a target are loopback addresses or unix sockets.

    Args:
        target: target as gRPC takes it, such as ``localhost:50051``, ``dns:///host:1`` or ``unix:/path``.
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    return all(_is_loopback(host) for host in _hosts(target))


def proxy_variable(target: str) -> str:
    """Return the variable whose proxy gRPC takes to reach a target; empty if it connects directly."""
    if is_on_this_machine(target):
        return ""
    name = next((name for name in _PROXIES if os.environ.get(name)), "")
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    if not name or all(_is_listed(host, exceptions) for host in _hosts(target)):
        return ""
    return name


def _hosts(target: str) -> list[str]:
    """Return the hosts of a target, without ports and brackets."""
    return [_host(address) for address in _SCHEME.sub("", target, count=1).split(",")]


def _host(address: str) -> str:
    try:
        host = urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return address
    return host if "@" not in address else address


def _is_loopback(host: str) -> bool:
    if host.rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _NUMBERS.fullmatch(host):
            return False
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # short forms, such as 127.1
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _is_listed(host: str, exceptions: str) -> bool:
    """Return whether a list as in ``no_proxy`` contains a host: by the end of its name, or by network."""
    for entry in (entry.strip().lower() for entry in exceptions.split(",")):
        if not entry:
            continue
        if host.endswith(entry):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            continue
    return False
