"""A gate before a small service, and a client that sends whatever frames a case wants."""
import json, os, socket, struct, subprocess, threading, time

from hpack import Decoder, Encoder

BINARY, WORK = os.environ["WICKETGATE_BINARY"], os.environ["H2_WORK_DIR"]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
PATIENCE = 3
STREAMS = 5
CODES = ["NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
         "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"]

CONFIG = """
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
issuer: {{ url: 'https://issuer.example/oidc', jwks_file: keys.json }}
limits: {{ streams: {streams} }}
shutdown: {{ delay: 1ms, deadline: 2s }}
services:
  - name: any
    resource: https://any.example
    upstream: http://127.0.0.1:{upstream}
    routes: {{ /**: public }}
"""


def code(number):
    return CODES[number] if number < len(CODES) else str(number)


def frame(kind, flags, stream, payload=b"", length=None):
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Service:
    """Answers everything at once with a hundred bytes, /held never; notes the lines that came."""

    def __init__(self):
        self.lines = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        reader = stream.makefile("rb")
        try:
            while (line := reader.readline()):
                length, chunked = 0, False
                while (field := reader.readline().strip().lower()):
                    if field.startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                    chunked |= field == b"transfer-encoding: chunked"
                reader.read(length)
                while chunked and (size := int(reader.readline(), 16)):
                    reader.read(size + 2)
                while chunked and reader.readline().strip():
                    pass
                self.lines.append(line.decode().strip())
                if b"/held" in line:
                    continue
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + (b"" if line.startswith(b"HEAD") else bytes(100)))
        except (OSError, ValueError):
            pass


class Gate:
    def __init__(self, service):
        free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.admin = (one.getsockname()[1] for one in free)
        [one.close() for one in free]
        key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k",
               "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
        with open(os.path.join(WORK, "keys.json"), "w") as file:
            json.dump({"keys": [key]}, file)
        path = os.path.join(WORK, "wicketgate.yaml")
        with open(path, "w") as file:
            file.write(CONFIG.format(port=self.port, admin=self.admin, upstream=service.port, streams=STREAMS))
        self.log = open(os.path.join(WORK, "gate.log"), "w")
        self.process = subprocess.Popen([BINARY, "run", "--config", path], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < end, "the gate does not listen"
                time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        ended = self.process.wait(20)
        self.log.close()
        with open(self.log.name) as log:
            text = log.read()
        assert ended == 0 and "panick" not in text.lower(), f"the gate ended with {ended}: {text[-2000:]}"


class Client:
    """A connection after its preface. What the gate says is read frame by frame; its own settings are acknowledged."""

    def __init__(self, gate, settings=b"", preface=PREFACE):
        self.stream = socket.create_connection(("127.0.0.1", gate.port), PATIENCE)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self.decoder, self.buffer = Encoder(), Decoder(), b""
        self.seen = []
        if preface:
            self.send(preface + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        try:
            self.stream.sendall(data)
        except OSError:
            pass

    def block(self, fields):
        return self.encoder.encode(fields, huffman=False)

    def request(self, path="/a", method="GET", more=()):
        return self.block([(":method", method), (":scheme", "http"), (":authority", "any.example"), (":path", path), *more])

    def ask(self, stream, path="/a", method="GET", flags=END_STREAM | END_HEADERS, more=()):
        self.send(frame(HEADERS, flags, stream, self.request(path, method, more)))

    def next(self):
        """The next frame of the gate: kind, flags, stream, payload; `None` when the connection is over."""
        try:
            while len(self.buffer) < 9:
                part = self.stream.recv(65_536)
                if not part:
                    return None
                self.buffer += part
            length = int.from_bytes(self.buffer[:3], "big")
            while len(self.buffer) < 9 + length:
                part = self.stream.recv(65_536)
                if not part:
                    return None
                self.buffer += part
        except ConnectionError:
            return None
        head, payload, self.buffer = self.buffer[:9], self.buffer[9:9 + length], self.buffer[9 + length:]
        if head.startswith(b"HTTP/1.1 "):
            return None
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        self.seen.append((kind, flags, stream, payload))
        return kind, flags, stream, payload

    def outcome(self, stream=1):
        """What became of a stream: `closed`, `goaway CODE`, `reset CODE`, `status N` or `silence`."""
        try:
            while (found := self.next()):
                kind, _, on, payload = found
                if kind == GOAWAY and (reason := int.from_bytes(payload[4:8], "big")):
                    return "goaway " + code(reason)
                if kind == RST_STREAM and on == stream:
                    return "reset " + code(int.from_bytes(payload, "big"))
                if kind == HEADERS:
                    fields = dict(self.decoder.decode(payload))
                    if on == stream:
                        return "status " + fields[":status"]
            return "closed"
        except TimeoutError:
            return "silence"

    def wait_for(self, wanted):
        """Reads until a frame of a kind comes."""
        while (found := self.next()):
            if found[0] == HEADERS:
                self.decoder.decode(found[3])
            if wanted(*found):
                return found
        return None

    def close(self):
        self.stream.close()
