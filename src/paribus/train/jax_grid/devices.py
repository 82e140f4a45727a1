"""What computes groups of runs at the same time: threads of the processor, or every accelerator that JAX sees."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import TypeVar

import jax

from paribus.errors import ConfigError


def workers(asked: int | None, threads: int) -> list[jax.Device]:
    """The device of each worker. On a CPU kernels use one thread, so that `asked`, or else `threads`, workers share JAX's
    single device and one compiled program; accelerators have a worker each, all of them unless fewer are asked for.

    Raises ConfigError when there are fewer accelerators than asked for."""
    found = jax.devices()
    if found[0].platform == "cpu":
        return [found[0]] * (asked or threads)
    if asked is not None and asked > len(found):
        raise ConfigError(f"launch.devices: {asked}, but JAX sees {len(found)}: {found[0].device_kind}; lower it")
    return list(found[:asked])


Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(
    jobs: Sequence[Job], devices: Sequence[jax.Device], work: Callable[[Job, jax.Device], Result]
) -> Iterator[tuple[Job, Result]]:
    """Do every job on whichever worker is free, and yield them as they end: a run that ends early leaves its worker to the
    others."""
    if len(devices) == 1:
        yield from ((job, work(job, devices[0])) for job in jobs)
        return
    free: SimpleQueue[jax.Device] = SimpleQueue()
    for device in devices:
        free.put(device)

    def take(job: Job) -> Result:
        device = free.get()
        try:
            return work(job, device)
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        futures = {pool.submit(take, job): job for job in jobs}
        yield from ((futures[future], future.result()) for future in as_completed(futures))
