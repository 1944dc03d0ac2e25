import threading

from PIL import Image

from formats import image_limits


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    whole = image_limits.machine_memory.__wrapped__
    installed = whole()
    assert installed > 1 << 28
    monkeypatch.setattr(image_limits, "_CONTAINER", (tmp_path / "new", tmp_path / "old"))
    (tmp_path / "new").write_text("max\n")
    assert whole() >= installed
    (tmp_path / "new").write_text("5000000\n")
    (tmp_path / "old").write_text("9223372036854771712\n")  # what the old form says without limit
    assert whole() == 5_000_000


def test_the_librarys_limit_returns_when_the_last_thread_has_ended():
    limit, own = image_limits.LibraryLimit(), Image.MAX_IMAGE_PIXELS
    inside, leave = threading.Event(), threading.Event()

    def work():
        with limit.lifted():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with limit.lifted():
        thread.start()
        assert inside.wait(10)
    assert Image.MAX_IMAGE_PIXELS is None
    leave.set()
    thread.join()
    assert own == Image.MAX_IMAGE_PIXELS
