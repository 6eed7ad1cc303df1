"""What clients see when the network fails, and that the gate gives everything back and goes on as before.

Three hosts: a client, the gate, the service; a cable between each two of them. Each test breaks a cable in its own way,
says within which time what must be seen, mends it, and looks whether all is as it was: no connection, request or memory left.
"""
import base64, json, os, re, socket, struct, subprocess, sys, threading, time, unittest

from network import Cable, Host

BINARY, WORK = os.environ["WICKETGATE_BINARY"], os.environ["NETWORK_WORK_DIR"]
GATE, SERVICE = ("10.91.1.1", 8080), ("10.91.2.2", 3000)
# The gate's own times, in seconds; what the kernels need to notice that a cable is mended comes on top.
# A SYN that is lost is sent again after one second, and once more after three; what else is lost four times in a row takes
# some five seconds, and who takes nothing of its answer for BODY is given up.
CONNECT, RESPONSE, BODY, HEADER, IDLE, TUNNEL_IDLE = 4, 5, 6, 4, 3, 3
SLACK = 2.5
MEMORY_MIB_MAX = 24

CONFIG = f"""
listen: {GATE[0]}:{GATE[1]}
admin: 127.0.0.1:9090
issuer: {{ url: 'https://issuer.example/oidc', jwks_file: keys.json }}
timeouts: {{ connect: {CONNECT}s, response: {RESPONSE}s, body: {BODY}s, header: {HEADER}s, idle: {IDLE}s, tunnel_idle: {TUNNEL_IDLE}s }}
shutdown: {{ delay: 1ms, deadline: 5s }}
services:
  - name: far
    resource: https://far.example
    upstream: UPSTREAM
    routes: {{ /**: public }}
"""


class Service:
    """Answers GET /bytes/N with N bytes, /held after a release, /cut/N with a promise of twice as many, /drip with a chunk a
    moment, gives POST bodies back, and echoes WebSocket frames. Knows what came."""

    def __init__(self, host):
        self.lines, self.release, self.open = [], threading.Event(), 0
        self.taken = threading.Semaphore(0)
        self.listener = host.listen(SERVICE)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        self.open += 1
        try:
            with stream:
                stream.settimeout(60)
                reader = stream.makefile("rb")
                while self.answer(stream, reader):
                    pass
        except OSError:
            pass
        finally:
            self.open -= 1

    def answer(self, stream, reader):
        line = reader.readline().decode()
        if not line:
            return False
        fields = {}
        while (field := reader.readline().strip()):
            name, _, value = field.decode("latin-1").partition(":")
            fields[name.lower()] = value.strip()
        self.lines.append(line.strip())
        method, path, _ = line.split()
        body = reader.read(int(fields.get("content-length", 0)))
        if "chunked" in fields.get("transfer-encoding", ""):
            while (size := int(reader.readline(), 16)):
                body += reader.read(size)
                reader.readline()
            reader.readline()
        self.taken.release()
        if fields.get("upgrade") == "websocket":
            stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            stream.settimeout(60)
            while (part := stream.recv(4096)):
                stream.sendall(part)
            return False
        if path == "/held":
            self.release.wait(60)
        if path.startswith("/cut/"):
            length = int(path.split("/")[2])
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * length) + bytes(length))
            self.release.wait(60)
            return False
        if path == "/drip":
            stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not self.release.wait(0.05):
                stream.sendall(b"4\r\ndrip\r\n")
            stream.sendall(b"0\r\n\r\n")
            return True
        if path.startswith("/bytes/"):
            body = bytes(int(path.split("/")[2]))
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True


class Answer:
    """What a client read: `whole` is whether the body ended as its head says."""

    def __init__(self, stream, method="GET"):
        self.status, self.body, self.whole, self.fields = 0, b"", False, {}
        try:
            reader = stream.makefile("rb")
            line = reader.readline()
            if not line:
                return
            self.status = int(line.split()[1])
            while (field := reader.readline().strip()):
                name, _, value = field.decode("latin-1").partition(":")
                self.fields[name.lower()] = value.strip()
            if "chunked" in self.fields.get("transfer-encoding", ""):
                while (line := reader.readline()):
                    size = int(line, 16)
                    if size == 0:
                        self.whole = reader.readline() == b"\r\n"
                        return
                    self.body += reader.read(size)
                    reader.readline()
            else:
                length = int(self.fields.get("content-length", 0))
                while len(self.body) < length and (part := reader.read1(length - len(self.body))):
                    self.body += part
                self.whole = len(self.body) == length
        except (OSError, ValueError):
            pass

    @property
    def code(self):
        return json.loads(self.body).get("code") if self.fields.get("content-type") == "application/problem+json" else ""


def head(method, path, *more):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: far.example", *more, "", ""]).encode()


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client_host, cls.gate_host, cls.service_host = (Host(name) for name in ("client", "gate", "service"))
        cls.near = Cable((cls.client_host, cls.gate_host), ("10.91.1.2", GATE[0]))
        cls.far = Cable((cls.gate_host, cls.service_host), ("10.91.2.1", SERVICE[0]))
        key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k",
               "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
        with open(os.path.join(WORK, "keys.json"), "w") as file:
            json.dump({"keys": [key]}, file)
        config = os.path.join(WORK, "wicketgate.yaml")
        with open(config, "w") as file:
            file.write(CONFIG.replace("UPSTREAM", os.environ.get("NETWORK_UPSTREAM", f"http://{SERVICE[0]}:{SERVICE[1]}")))
        cls.log = open(os.path.join(WORK, "gate.log"), "w")
        cls.gate = subprocess.Popen(["ip", "netns", "exec", cls.gate_host.name, BINARY, "run", "--config", config], stdout=cls.log, stderr=cls.log)
        cls.service = Service(cls.service_host)
        cls.until("the gate is ready", lambda: cls.admin("/readyz").status == 200)
        for _ in range(20):
            cls.ask("GET", "/bytes/1000")

    @classmethod
    def tearDownClass(cls):
        cls.gate.terminate()
        code = cls.gate.wait(20)
        for host in (cls.client_host, cls.gate_host, cls.service_host):
            host.remove()
        with open(cls.log.name) as log:
            text = log.read()
        assert code == 0 and "panick" not in text.lower(), f"the gate ended with {code}: {text[-2000:]}"

    def setUp(self):
        self.service.release.clear()
        self.memory_before = self.memory()

    def tearDown(self):
        self.near.mend()
        self.far.mend()
        self.service.release.set()
        self.all_is_well()

    # Help

    @classmethod
    def until(cls, what, condition, seconds=20):
        end = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except OSError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds} s")
            time.sleep(0.02)

    @classmethod
    def admin(cls, path):
        with cls.gate_host.connect(("127.0.0.1", 9090)) as stream:
            stream.sendall(head("GET", path, "Connection: close").replace(b"far.example", b"localhost"))
            return Answer(stream)

    @classmethod
    def metric(cls, series):
        text = cls.admin("/metrics").body.decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.M)
        return float(found.group(1)) if found else 0.0

    @classmethod
    def memory(cls):
        """MiB of the gate, which `ip netns exec` became."""
        with open(f"/proc/{cls.gate.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024

    @classmethod
    def send(cls, *arguments, body=b""):
        stream = cls.client_host.connect(GATE)
        stream.sendall(head(*arguments) + body)
        return stream

    @classmethod
    def ask(cls, method, path, body=b""):
        with cls.send(method, path, "Connection: close", f"Content-Length: {len(body)}", body=body) as stream:
            return Answer(stream, method)

    def within(self, least, most, begun):
        took = time.monotonic() - begun
        self.assertTrue(least * 0.8 <= took <= most, f"took {took:.1f} s instead of {least} to {most}")

    def all_is_well(self):
        """After a fault: new requests are served, and nothing of old ones is left."""
        self.until("requests are served again", lambda: self.ask("GET", "/bytes/100").status == 200)
        self.assertEqual(self.ask("POST", "/echo", b"whole").body, b"whole")
        # What idles ends by its own time.
        self.until("no request is left", lambda: self.metric("wicketgate_requests_in_flight") == 0, 10)
        self.until("no connection is left", lambda: self.metric("wicketgate_connections_open") == 0, IDLE + HEADER + 10)
        self.assertLess(self.memory() - self.memory_before, MEMORY_MIB_MAX, "memory is not given back")

    # The way to the service

    def test_loss_and_delay_cost_time_and_nothing_else(self):
        for cable in (self.near, self.far):
            cable.loss, cable.delay = 0.05, 0.05
        self.assertIsNotNone(self.near.dice)
        answers, lost = [], self.near.lost + self.far.lost

        def work(number):
            body = bytes((number + i) % 256 for i in range(20_000))
            for answer, expected in ((self.ask("POST", "/echo", body), body), (self.ask("GET", "/bytes/50000"), bytes(50_000))):
                answers.append((answer.status, len(answer.body), answer.body == expected))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        self.assertEqual(sorted(answers), [(200, 20_000, True)] * 20 + [(200, 50_000, True)] * 20)
        self.assertGreater(self.near.lost + self.far.lost - lost, 20, "the cables lost nothing")

    def test_a_long_way_costs_its_time_alone(self):
        self.far.delay = 0.2
        begun = time.monotonic()
        self.assertEqual(self.ask("GET", "/bytes/100").status, 200)
        self.within(0.4, 2, begun)

    def test_a_service_that_cannot_be_reached_is_a_502_within_the_time_to_connect(self):
        # None that was open before is to be had.
        time.sleep(4.5)
        self.far.cut()
        begun = time.monotonic()
        answer = self.ask("GET", "/bytes/100")
        self.assertIn((answer.status, answer.code), [(502, "upstream_refused"), (504, "upstream_slow")])
        self.within(CONNECT, CONNECT + SLACK, begun)

    def test_a_service_that_is_cut_off_before_its_answer_is_a_504_within_the_time_to_answer(self):
        stream = self.send("GET", "/held", "Connection: close")
        self.until("it is upstream", lambda: self.service.lines[-1].startswith("GET /held"))
        self.far.cut()
        begun = time.monotonic()
        answer = Answer(stream)
        self.assertEqual((answer.status, answer.code), (504, "upstream_slow"))
        self.within(RESPONSE * 0.5, RESPONSE + SLACK, begun)

    def test_a_post_that_got_no_answer_is_not_sent_twice(self):
        stream = self.send("POST", "/held", "Connection: close", "Content-Length: 2", body=b"ok")
        self.until("it is upstream", lambda: self.service.lines[-1].startswith("POST /held"))
        self.far.cut()
        self.assertEqual(Answer(stream).status, 504)
        self.far.mend()
        self.until("requests are served again", lambda: self.ask("GET", "/bytes/100").status == 200)
        self.assertEqual(sum(line.startswith("POST /held") for line in self.service.lines), 1)

    def test_an_answer_that_is_cut_in_the_middle_never_looks_whole(self):
        for path in ("/cut/50000", "/drip"):
            self.service.release.clear()
            stream = self.send("GET", path, "Connection: close")
            stream.recv(1000, socket.MSG_PEEK)
            self.until("the answer is under way", lambda: len(stream.recv(1000, socket.MSG_PEEK)) > 100)
            self.far.cut()
            begun = time.monotonic()
            answer = Answer(stream)
            self.assertEqual((answer.status, answer.whole), (200, False), path)
            self.within(0, self.body_silence() + SLACK, begun)
            self.far.mend()
            self.service.release.set()

    def body_silence(self):
        """How long a service may be silent in the middle of an answer's body."""
        return float(os.environ.get("NETWORK_BODY_SILENCE", TUNNEL_IDLE))

    def test_a_websocket_that_is_cut_off_ends_by_its_idle_time(self):
        for cable in (self.far, self.near):
            stream = self.send("GET", "/socket", *UPGRADE)
            answer = stream.recv(4096)
            self.assertIn(b" 101 ", answer)
            stream.sendall(b"\x81\x82\0\0\0\0hi")
            self.assertIn(b"hi", stream.recv(100))
            cable.cut()
            begun = time.monotonic()
            self.until("the gate lets it go", lambda: self.metric("wicketgate_connections_open") == 0, 2 * TUNNEL_IDLE + SLACK)
            self.within(TUNNEL_IDLE * 0.5, 2 * TUNNEL_IDLE + SLACK, begun)
            cable.mend()
            stream.close()

    def test_a_connection_to_the_service_that_died_silently_costs_one_answer_at_most(self):
        # A firewall between forgets the connection, and the service restarts: nobody is told.
        self.ask("GET", "/bytes/100")
        self.far.cut()
        self.service_host.inside(lambda: None)
        time.sleep(0.2)
        begun = time.monotonic()
        first = self.ask("GET", "/bytes/100")
        self.assertIn(first.status, (502, 504))
        self.within(0, RESPONSE + SLACK, begun)
        self.far.mend()
        # The dead one is never taken again.
        self.assertEqual([self.ask("GET", "/bytes/100").status for _ in range(3)], [200] * 3)

    # The way to the client

    def test_a_client_that_is_cut_off_in_a_download_is_let_go(self):
        streams = [self.send("GET", "/bytes/30000000") for _ in range(5)]
        self.until("they are under way", lambda: all(len(stream.recv(5000, socket.MSG_PEEK)) > 1000 for stream in streams))
        self.near.cut()
        begun = time.monotonic()
        self.until("the gate lets them go", lambda: self.metric("wicketgate_connections_open") == 0, BODY + SLACK)
        self.within(0, BODY + SLACK, begun)
        self.until("the service is let go", lambda: self.metric("wicketgate_requests_in_flight") == 0, SLACK)
        [stream.close() for stream in streams]

    def test_a_client_that_is_cut_off_in_an_upload_is_let_go(self):
        streams = [self.send("POST", "/echo", "Content-Length: 1000000", body=bytes(1000)) for _ in range(5)]
        self.until("they are under way", lambda: self.metric("wicketgate_requests_in_flight") == 5)
        self.near.cut()
        begun = time.monotonic()
        self.until("the gate lets them go", lambda: self.metric("wicketgate_connections_open") == 0, BODY + SLACK)
        self.within(BODY * 0.5, BODY + SLACK, begun)
        [stream.close() for stream in streams]

    def test_clients_that_vanish_are_let_go_idle_and_in_a_head_and_over_http2(self):
        idle = self.send("GET", "/bytes/10")
        self.assertEqual(Answer(idle).status, 200)
        silent = self.client_host.connect(GATE)
        half = self.client_host.connect(GATE)
        half.sendall(b"GET /bytes/10 HT")
        http2 = self.client_host.connect(GATE)
        http2.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        self.until("all are there", lambda: self.metric("wicketgate_connections_open") == 4)
        self.near.cut()
        begun = time.monotonic()
        self.until("the gate lets them go", lambda: self.metric("wicketgate_connections_open") == 0, IDLE + HEADER + SLACK)
        self.within(0, IDLE + HEADER + SLACK, begun)
        [stream.close() for stream in (idle, silent, half, http2)]

    def test_two_hundred_clients_cut_off_at_once_leave_nothing_behind(self):
        streams = [self.send("GET", "/drip") for _ in range(200)]
        self.until("all are served", lambda: self.metric("wicketgate_requests_in_flight") == 200)
        self.near.cut()
        self.until("the gate lets them go", lambda: self.metric("wicketgate_connections_open") == 0, 30)
        self.until("the service is let go", lambda: self.service.open <= 10, SLACK)
        [stream.close() for stream in streams]


if __name__ == "__main__":
    unittest.main(verbosity=2)
