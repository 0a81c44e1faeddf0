"""MIDI ports for mido without the system's: each is a connection to a socket of the test."""

import os
import socket
import threading

import mido
from mido.ports import BaseInput, BaseOutput

SOCKET = "SOSTENUTO_TEST_PORTS"
NAMES = ("Test Piano 1", "Test Piano 2", "Desk")


def get_devices(**_):
    return [{"name": name, "is_input": True, "is_output": True} for name in NAMES]


def _connect(kind: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[SOCKET])
    connection.sendall(kind.encode())
    return connection


class Input(BaseInput):
    """A port whose messages come from the test."""

    def _open(self, callback=None, **_):
        self._connection = _connect("i")
        threading.Thread(target=self._read, args=(callback,), daemon=True).start()

    def _read(self, callback):
        parser = mido.Parser()
        while data := self._connection.recv(1024):
            parser.feed(data)
            for message in parser:
                callback(message)


class Output(BaseOutput):
    """A port whose messages go to the test."""

    def _open(self, **_):
        self._connection = _connect("o")

    def _send(self, message):
        self._connection.sendall(message.bin())
