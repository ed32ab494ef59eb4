"""Writing behind: in order, not far behind, and nothing that was put is lost."""

import threading

import pytest

from fgjax.stages.explain.map_writer import MapWriter


def test_everything_in_order_in_one_other_thread():
    seen, threads = [], set()

    def write(*chunk):
        threads.add(threading.current_thread())
        seen.append(chunk)

    with MapWriter(write) as writer:
        for i in range(50):
            writer.put(i, str(i))
    assert seen == [(i, str(i)) for i in range(50)]
    assert len(threads) == 1 and threading.main_thread() not in threads


@pytest.mark.parametrize("waiting", [1, 2])
def test_a_slow_writer_is_waited_for(waiting):
    """The one that is written, and so many that wait: the next `put` blocks until one is done."""
    begun, go, put, seen = threading.Semaphore(0), threading.Semaphore(0), [], []

    def write(i):
        begun.release()
        assert go.acquire(timeout=30)
        seen.append(i)

    def fill():
        with MapWriter(write, waiting) as writer:
            for i in range(6):
                writer.put(i)
                put.append(i)

    filler = threading.Thread(target=fill)
    filler.start()
    for done in range(6):
        assert begun.acquire(timeout=30)  # the writer holds piece `done`
        filler.join(0.05)  # time enough to put too much
        assert len(put) - done <= waiting + 1 and len(seen) == done
        go.release()
    filler.join(30)
    assert seen == put == list(range(6))


def test_an_error_is_raised_and_ends_the_writing():
    seen, third = [], threading.Event()

    def write(i):
        if i == 2:
            third.set()
            raise OSError("no space left")
        seen.append(i)

    put = []
    with pytest.raises(OSError, match="no space left"), MapWriter(write) as writer:
        for i in range(20):
            writer.put(i)
            put.append(i)
            if i == 2:
                assert third.wait(30)
    assert seen == [0, 1] and len(put) <= 5


def test_an_error_of_the_last_chunk_is_raised_at_the_end():
    def write(i):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), MapWriter(write) as writer:
        writer.put(0)


def test_what_was_put_is_written_when_the_block_is_interrupted():
    seen, go = [], threading.Event()

    def write(i):
        assert go.wait(30)
        seen.append(i)

    with pytest.raises(KeyboardInterrupt), MapWriter(write) as writer:
        writer.put(0)
        writer.put(1)
        go.set()
        raise KeyboardInterrupt
    assert seen == [0, 1]
