"""An address where no cluster is ends at once, in one sentence that says what to do."""

import logging

import pytest
from cluster_kit import free_ports

from pupila.errors import SettingsError

pytest.importorskip("ray")


@pytest.mark.parametrize("address", ["127.0.0.2:{port}", "nonsense", "127.0.0.2:99999", "no.such.host.invalid:6379"])
def test_address_without_a_cluster_is_refused_at_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    from pupila.cluster.connect import connected

    caplog.set_level(logging.WARNING)
    (port,) = free_ports(1)
    address = address.format(port=port)
    with pytest.raises(SettingsError, match="HOST:6379") as refused, connected(address):
        pass
    said = str(refused.value)
    assert said.startswith(f"{address}: no Ray cluster answers there (") and "\n" not in said
    assert caplog.text == ""
