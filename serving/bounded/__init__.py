"""Functions over bytes from outside, run in worker processes with bounded time and memory.

A codec is C code that reads what a stranger wrote. Here it may crash, hang or ask for memory without end: its worker
dies, the caller gets an error, and the next call has a fresh worker. `pool.BoundedPool` is the way in.
"""
