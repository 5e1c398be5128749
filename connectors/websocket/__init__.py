"""The WebSocket API: `/agent/ws`."""
