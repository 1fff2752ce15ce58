"""Which addresses are of the public internet: the others are never connected to, unless the operator names the host.

An address may wear another one: an IPv4 address mapped into IPv6, or behind a NAT64 gateway, counts as what it is. Addresses of
other relays (6to4, Teredo) are refused: no host of media needs them.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Behind it the last four bytes are the IPv4 address that a gateway connects to."""

_CLOSED: Final = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),  # shared by a provider's customers
    IPv4Network("168.63.129.16/32"),  # a cloud's own services, on an address that is public by its looks
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv4Network("198.18.0.0/15"),
    IPv6Network("64:ff9b:1::/48"),  # gateways to IPv4 of a network's own
    IPv6Network("100::/64"),
    IPv6Network("2001::/23"),  # Teredo among others
    IPv6Network("2001:db8::/32"),
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("3fff::/20"),
    IPv6Network("5f00::/16"),
    IPv6Network("fec0::/10"),  # once the private addresses of IPv6
)
"""Not to be reached, whatever the version of Python makes of them."""


def is_public(text: str) -> bool:
    """Whether an address, as the resolver gives it, is one of the public internet. False for what is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return _is_public(address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    if any(address in network for network in _CLOSED if network.version == address.version):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
    )
