"""Figures of the gate on the wire: CPU by protocol, memory of open connections, good clients beside slow ones.

usage: wire.py [BINARY] [cpu] [http2] [websockets] [loris]     (all four by default; Linux, Python's standard library)

`cpu` needs h2load (Debian: nghttp2-client) and nginx (nginx-light), beside which `loris` looks as well. figures.py runs all of it at its end.
A figure beyond its target says MISSED, and ends it with exit code 1.
"""
import asyncio, itertools, multiprocessing, os, re, resource, shutil, socket, struct, subprocess, sys, tempfile, threading, time

# Many short rounds, of which the least counts: machines are busy with other things in bursts.
CPU_REQUESTS, CPU_ROUNDS = int(os.environ.get("CPU_REQUESTS", 15_000)), 10
HTTP2_CONNECTIONS, WEBSOCKETS, SLOW_SOCKETS = 10_000, 5_000, 5_000
HTTP2_MIB_MAX, WEBSOCKETS_MIB_MAX = 300, 150
GOOD_REQUESTS = 4_000
TICKS = os.sysconf("SC_CLK_TCK")
# A public key of RFC 7515's examples: nothing is signed here.
KEYS = ('{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"k","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",'
        '"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}')
CONFIG = """
listen: 127.0.0.1:{port}
admin: 127.0.0.1:{admin}
issuer: {{ url: 'https://issuer.example/oidc', jwks_file: keys.json }}
log: {{ access: false }}
timeouts: {{ header: 10s, idle: 5m }}
shutdown: {{ delay: 1ms, deadline: 1s }}
services:
  - {{ name: one, hosts: [one.example, 127.0.0.1], resource: 'https://one.example', upstream: 'http://127.0.0.1:{http1}', routes: {{ /**: public }} }}
  - {{ name: two, hosts: [two.example], resource: 'https://two.example', upstream: {{ url: 'http://127.0.0.1:{http2}', protocol: http2 }}, routes: {{ /**: public }} }}
"""
NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 1h; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen 127.0.0.1:{http1}; location / {{ default_type application/json; return 200 "{body}"; }} }}
  server {{
    listen 127.0.0.1:{http2} http2; http2_max_concurrent_streams 1000;
    location / {{ default_type application/json; return 200 "{body}"; }}
    location /grpc {{ default_type application/grpc; add_trailer grpc-status 0 always; return 200 "{body}"; }}
  }}
}}
"""
NGINX_FOR_SLOW_ONES = """
daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 12000; }}
http {{
  access_log off; client_header_timeout 10s; large_client_header_buffers 4 32k;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 ok; }} }}
}}
"""
BODY = "x" * 200
missed = []


def against(name, text, found, most):
    """Prints a figure, and whether it is within its target."""
    if found > most:
        missed.append(name)
    print(f"{name:<44} {text}{' MISSED' if found > most else ''}")


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    [one.close() for one in held]
    return ports


def room_for_sockets():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


class Gate:
    """A gate of its own for each figure: what one leaves behind must not count for the next."""

    def __init__(self, binary, http1, http2=1):
        self.directory = tempfile.TemporaryDirectory()
        self.port, admin = free_ports(2)
        for name, text in (("keys.json", KEYS), ("wicketgate.yaml", CONFIG.format(port=self.port, admin=admin, http1=http1, http2=http2))):
            with open(os.path.join(self.directory.name, name), "w") as file:
                file.write(text)
        config = os.path.join(self.directory.name, "wicketgate.yaml")
        self.process = subprocess.Popen([binary, "run", "--config", config], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > end:
                    sys.exit("it did not start")
                time.sleep(0.02)

    def cpu(self):
        """Seconds, user and system."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.directory.cleanup()


# CPU by protocol

def cpu(binary):
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if not nginx or not shutil.which("h2load"):
        return print("CPU by protocol                              not measured: h2load (nghttp2-client) and nginx (nginx-light) are needed")
    with tempfile.TemporaryDirectory() as directory:
        http1, http2 = free_ports(2)
        path, message = os.path.join(directory, "nginx.conf"), os.path.join(directory, "message")
        with open(path, "w") as file:
            file.write(NGINX.format(directory=directory, http1=http1, http2=http2, body=BODY))
        with open(message, "wb") as file:
            file.write(b"\0\0\0\0\x14" + bytes(20))
        upstream = subprocess.Popen([nginx, "-c", path, "-p", directory], stderr=subprocess.DEVNULL)
        gate = Gate(binary, http1, http2)
        base = f"http://127.0.0.1:{gate.port}"
        grpc = ["-H", ":authority: two.example", "-H", "content-type: application/grpc", "-H", "te: trailers", "-d", message]
        kinds = {
            "HTTP/1.1 to HTTP/1.1": ["--h1", base + "/a"],
            "HTTP/1.1 to HTTP/1.1, POST": ["--h1", "-d", message, base + "/a"],
            "HTTP/2 to HTTP/2, 1 stream": ["-m1", "-H", ":authority: two.example", base + "/a"],
            "HTTP/2 to HTTP/2, 10 streams": ["-m10", "-H", ":authority: two.example", base + "/a"],
            "gRPC to gRPC, 1 stream": ["-m1", *grpc, base + "/grpc"],
            "gRPC to gRPC, 10 streams": ["-m10", *grpc, base + "/grpc"],
            "HTTP/2 to HTTP/1.1, 10 streams": ["-m10", base + "/a"],
        }
        least = {kind: float("inf") for kind in kinds}
        for _ in range(CPU_ROUNDS):
            for kind, arguments in kinds.items():
                before = gate.cpu()
                said = subprocess.run(["h2load", f"-n{CPU_REQUESTS}", "-c16", "-t1", *arguments], capture_output=True, text=True).stdout
                good = int(re.search(r"status codes: (\d+) 2xx", said).group(1))
                assert good == CPU_REQUESTS, f"{kind}: {said}"
                least[kind] = min(least[kind], (gate.cpu() - before) / CPU_REQUESTS * 1e6)
        measure = least["HTTP/1.1 to HTTP/1.1"]
        for kind, found in least.items():
            target = kind.startswith(("HTTP/2 to HTTP/2", "gRPC"))
            base_of = least["HTTP/1.1 to HTTP/1.1, POST"] if kind.startswith("gRPC") else measure
            text = f"{found:.1f} us, {100 * found / base_of - 100:+.0f} %{' (target +15 %)' if target else ''}"
            against(f"CPU a request, {kind}", text, found / base_of if target else 0, 1.15)
        gate.stop()
        upstream.terminate()
        upstream.wait()


# Open connections

async def answer(reader, writer):
    """Answers everything with 200, and gives frames of WebSockets back."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while (part := await reader.read(1024)):
                    # Of a short masked frame with a mask of zeros, without the mask.
                    writer.write(bytes([part[0], part[1] & 0x7F]) + part[6:])
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + BODY.encode())
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def serve_for_ever(port):
    room_for_sockets()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    asyncio.run(main())


class Upstream:
    def __init__(self):
        [self.port] = free_ports(1)
        self.process = multiprocessing.Process(target=serve_for_ever, args=(self.port,), daemon=True)
        self.process.start()
        time.sleep(0.5)

    def stop(self):
        self.process.kill()
        self.process.join()


def source(number):
    """Many addresses of this machine, so that ports suffice."""
    return (f"127.0.{1 + number // 4000}.1", 0)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def http2_get(stream):
    """HEADERS of `GET http://one.example/` from the static table."""
    return frame(1, 5, stream, b"\x82\x86\x84\x01\x0bone.example")


def http2(binary):
    upstream = Upstream()
    gate = Gate(binary, upstream.port)
    before, streams = gate.memory(), []
    for number in range(HTTP2_CONNECTIONS):
        stream = socket.create_connection(("127.0.0.1", gate.port), source_address=source(number))
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + http2_get(1))
        seen = b""
        while BODY.encode() not in seen:
            seen += stream.recv(4096)
        stream.sendall(frame(4, 1, 0))
        streams.append(stream)
    at_once = gate.memory()
    time.sleep(3)
    found = gate.memory()
    text = f"{found:.0f} MiB (target {HTTP2_MIB_MAX} MiB; {at_once:.0f} at once, {before:.0f} before)"
    against(f"{HTTP2_CONNECTIONS} idle HTTP/2 connections", text, found, HTTP2_MIB_MAX)
    [stream.close() for stream in streams]
    gate.stop()
    upstream.stop()


def websockets(binary):
    upstream = Upstream()
    gate = Gate(binary, upstream.port)
    before, streams = gate.memory(), []
    for number in range(WEBSOCKETS):
        stream = socket.create_connection(("127.0.0.1", gate.port), source_address=source(number))
        stream.sendall(b"GET /socket HTTP/1.1\r\nHost: one.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                       b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert b" 101 " in stream.recv(4096)
        stream.sendall(b"\x81\x82\0\0\0\0hi")
        assert stream.recv(100) == b"\x81\x02hi"
        streams.append(stream)
    at_once = gate.memory()
    time.sleep(3)
    found = gate.memory()
    text = f"{found:.0f} MiB (target {WEBSOCKETS_MIB_MAX} MiB; {at_once:.0f} at once, {before:.0f} before)"
    against(f"{WEBSOCKETS} open WebSockets", text, found, WEBSOCKETS_MIB_MAX)
    [stream.close() for stream in streams]
    gate.stop()
    upstream.stop()


# Good clients beside slow ones

def be_slow(port, ready):
    """Sockets that send a head byte by byte, one each second, and come back when they are closed."""
    room_for_sockets()
    head = b"GET /slow HTTP/1.1\r\nHost: one.example\r\nX-Long: " + b"x" * 10_000

    def begin(number):
        stream = socket.create_connection(("127.0.0.1", port), source_address=source(number))
        stream.setblocking(False)
        stream.send(head[:20])
        return [stream, 20]

    sockets = [begin(number) for number in range(SLOW_SOCKETS)]
    ready.set()
    # In turn, a few at a time: a burst of all would measure what it takes of the machine, beside which the good ones run.
    for number in itertools.cycle(range(SLOW_SOCKETS)):
        one = sockets[number]
        try:
            one[0].send(head[one[1]:one[1] + 1])
            one[1] += 1
        except OSError:
            one[0].close()
            sockets[number] = begin(number)
        if number % 50 == 49:
            time.sleep(50 / SLOW_SOCKETS)


def percentile_99(port):
    times, threads = [], []

    def ask():
        with socket.create_connection(("127.0.0.1", port)) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(GOOD_REQUESTS // 4):
                begun = time.perf_counter()
                stream.sendall(b"GET /good HTTP/1.1\r\nHost: one.example\r\n\r\n")
                seen = b""
                while not seen.endswith(BODY.encode()):
                    seen += stream.recv(4096)
                times.append(time.perf_counter() - begun)
                # As clients do, and so that they do not measure one another.
                time.sleep(0.002)

    for _ in range(4):
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    [thread.join() for thread in threads]
    return sorted(times)[len(times) * 99 // 100] * 1000


def beside_slow_ones(at, port):
    """What good clients of `port` notice of slow sockets that are open at `at`."""
    ready = multiprocessing.Event()
    slow = multiprocessing.Process(target=be_slow, args=(at, ready), daemon=True)
    slow.start()
    ready.wait(60)
    found = min(percentile_99(port) for _ in range(5))
    slow.kill()
    slow.join()
    return found


def loris(binary):
    upstream = Upstream()
    gate = Gate(binary, upstream.port)
    percentile_99(gate.port)
    idle = min(percentile_99(gate.port) for _ in range(5))
    beside, memory = beside_slow_ones(gate.port, gate.port), gate.memory()
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    elsewhere = ""
    if nginx:
        # What the senders alone take of this machine: they are not the gate's.
        with tempfile.TemporaryDirectory() as directory:
            [other] = free_ports(1)
            path = os.path.join(directory, "nginx.conf")
            with open(path, "w") as file:
                file.write(NGINX_FOR_SLOW_ONES.format(directory=directory, port=other))
            server = subprocess.Popen([nginx, "-c", path, "-p", directory], stderr=subprocess.DEVNULL)
            time.sleep(1)
            elsewhere = f", {beside_slow_ones(other, gate.port):.2f} ms with the slow ones at nginx"
            server.terminate()
            server.wait()
    text = f"{beside:.2f} ms, {idle:.2f} ms without (target twice that){elsewhere}; {memory:.0f} MiB"
    against(f"p99 of good clients, beside {SLOW_SOCKETS} slow sockets", text, beside, 2 * idle)
    gate.stop()
    upstream.stop()


def main(binary, wanted=()):
    room_for_sockets()
    for part in (cpu, http2, websockets, loris):
        if not wanted or part.__name__ in wanted:
            part(binary)


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name in ("cpu", "http2", "websockets", "loris")]
    paths = [path for path in sys.argv[1:] if path not in names]
    main(os.path.abspath(paths[0] if paths else "target/release/wicketgate"), names)
    sys.exit(1 if missed else 0)
