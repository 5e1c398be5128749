"""SIP: a phone, a PBX or a trunk calls the gateway (RFC 3261). The core here does no input or output."""
