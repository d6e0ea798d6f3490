"""The wire: what clients send (`requests`), what they get (`objects`), and the types that describe it (`schemas`)."""
