"""A small language model on loopback: its file, fetched once a machine, and a thin server in front of it.

    catalogue ── cache ── sources ── fetching      the file: which one, where it lies, where it comes from
    requests ── planning ── prompts, schemas       a request becomes one or two generations of llama.cpp
    engine ── generation ── replies ── server      they run, are read while they run, and leave as OpenAI's wire

It is for demonstration and for tests without a network: half a billion parameters follow simple requests and call
simple functions; they do not reason.
"""
