"""What a network device counts, for whoever watches it."""

from __future__ import annotations


class NetCounters:
    """Frames since the device was made, of all its queues; bytes are those of frames.

    Attributes:
        rx_frames, rx_bytes: given to the driver.
        rx_malformed: from the backend, too short, too long, or larger than the negotiated MTU.
        rx_too_large: larger than the buffers that the driver provides.
        rx_link_down: came while the link was down.
        rx_bad_buffers: receive buffers that cannot even hold a header, given back empty.
        tx_frames, tx_bytes: given to the backend.
        tx_malformed: from the driver, too short or too long.
        tx_refused: the backend did not take them, for example for a header without meaning.
        tx_link_down: came while the link was down.
    """

    __slots__ = (
        "rx_bad_buffers",
        "rx_bytes",
        "rx_frames",
        "rx_link_down",
        "rx_malformed",
        "rx_too_large",
        "tx_bytes",
        "tx_frames",
        "tx_link_down",
        "tx_malformed",
        "tx_refused",
    )

    def __init__(self) -> None:
        self.rx_frames = 0
        self.rx_bytes = 0
        self.rx_malformed = 0
        self.rx_too_large = 0
        self.rx_link_down = 0
        self.rx_bad_buffers = 0
        self.tx_frames = 0
        self.tx_bytes = 0
        self.tx_malformed = 0
        self.tx_refused = 0
        self.tx_link_down = 0

    def __repr__(self) -> str:
        counted = ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"NetCounters({counted})"
