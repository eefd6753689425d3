"""I/O without policy: requests and WebSockets over an `httpx.AsyncBaseTransport`."""
