"""A TCP relay in front of a server: it can forget its connections without a word, as NAT does, and lead elsewhere."""

import contextlib
import socket
import threading


class Relay:
    """Listens at `port`; connections lead to the port `target`, as it is when they are opened."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"127.0.0.1:{self.port}"
        self.n_opened = 0
        self._forgotten = threading.Event()  # of the connections that there are now
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """Nothing gets through the connections that there are now, in either direction, and none is closed."""
        self._forgotten.set()
        self._forgotten = threading.Event()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_) -> None:
        self._listener.close()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                self.n_opened += 1
                there = socket.create_connection(("127.0.0.1", self.target))
                self._open += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=_pump, args=(source, sink, self._forgotten), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, forgotten: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            if not forgotten.is_set():
                sink.sendall(data)
        if not forgotten.is_set():
            sink.shutdown(socket.SHUT_WR)
