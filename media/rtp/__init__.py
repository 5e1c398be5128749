"""RTP: packets, reception, the jitter buffer, concealment, digits and quality; no sockets, no clock."""
