"""Figures of the running binary that a benchmark in one process cannot show: memory and start-up time.

usage: figures.py [BINARY]     (default target/release/wicketgate; Linux, Python's standard library alone)

Each figure is printed beside its target. It measures and does not judge: machines differ.
"""
import os, resource, socket, subprocess, sys, tempfile, threading, time, urllib.request

import wire

BINARY = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/wicketgate")
CONNECTIONS, GIB, PIECE = 10_000, 1 << 30, 1 << 18


def free_ports(count):
    """Neighbouring ports below those that the system hands out, so that closed connections do not hold them."""
    first = 20_000 + os.getpid() % 5_000
    while True:
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
        except OSError:
            first += count


def memory(process, key):
    """`VmRSS` (now) or `VmHWM` (the most since the last reset), in MiB."""
    for line in open(f"/proc/{process.pid}/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024


def reset_peak(process):
    with open(f"/proc/{process.pid}/clear_refs", "w") as file:
        file.write("5")


class Upstream(threading.Thread):
    """Reads bodies to their end; answers GET /big with 1 GiB, anything else with two bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]

    def run(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        buffer = b""
        with stream:
            while True:
                while b"\r\n\r\n" not in buffer:
                    part = stream.recv(PIECE)
                    if not part:
                        return
                    buffer += part
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
                left = length - len(buffer)
                buffer = b"" if left >= 0 else buffer[left:]
                while left > 0:
                    left -= len(stream.recv(min(PIECE, left)))
                if head.startswith(b"GET /public/big"):
                    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB)
                    for _ in range(GIB // PIECE):
                        stream.sendall(bytes(PIECE))
                else:
                    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def ask(port, head, body=()):
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(head)
        for piece in body:
            stream.sendall(piece)
        total = 0
        while part := stream.recv(PIECE):
            total += len(part)
        return total


def head(line, *more):
    return "\r\n".join([line, "Host: gate", "Connection: close", *more, "", ""]).encode()


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    upstream = Upstream()
    upstream.start()
    demo_port = free_ports(6)
    issuer = subprocess.Popen([BINARY, "demo", "--port", str(demo_port)], stdout=subprocess.DEVNULL)
    wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{demo_port + 2}/oidc/jwks").status == 200)
    port, admin = demo_port + 4, demo_port + 5
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "wicketgate.yaml")
        with open(path, "w") as file:
            file.write(f"listen: 127.0.0.1:{port}\nadmin: 127.0.0.1:{admin}\nissuer: http://127.0.0.1:{demo_port + 2}/oidc\n"
                       f"services:\n  - name: weather\n    resource: http://127.0.0.1:{demo_port}\n    upstream: http://127.0.0.1:{upstream.port}\n"
                       f"    routes: {{ /public/**: public, 'GET /forecast/{{city}}': read:weather }}\nlog: {{ access: false }}\nshutdown: {{ delay: 1ms, deadline: 1s }}\n")
        token = urllib.request.Request(
            f"http://127.0.0.1:{demo_port + 2}/oidc/token",
            f"grant_type=client_credentials&client_id=weatherbot&client_secret=weatherbot-secret&scope=read:weather&resource=http://127.0.0.1:{demo_port}".encode())
        import json
        token = json.load(urllib.request.urlopen(token))["access_token"]
        first = head("GET /forecast/oslo HTTP/1.1", "Authorization: Bearer " + token)
        starts = []
        for _ in range(5):
            begun = time.monotonic()
            process = subprocess.Popen([BINARY, "run", "--config", path], stdout=subprocess.DEVNULL)
            wait(lambda: b" 200 " in answer(port, first)[:20], step=0.001)
            starts.append((time.monotonic() - begun) * 1000)
            if len(starts) < 5:
                process.terminate()
                process.wait()
        print(f"start to first served request with a token   {min(starts):.0f} ms (target 100 ms; {', '.join(f'{s:.0f}' for s in starts)})")
        idle = memory(process, "VmRSS")
        print(f"idle                                         {idle:.1f} MiB")
        reset_peak(process)
        ask(port, head("POST /public/up HTTP/1.1", f"Content-Length: {GIB}"), (bytes(PIECE) for _ in range(GIB // PIECE)))
        up = memory(process, "VmHWM") - idle
        reset_peak(process)
        got = ask(port, head("GET /public/big HTTP/1.1"))
        down = memory(process, "VmHWM") - idle
        assert got > GIB, got
        print(f"1 GiB up / down, above idle                  {up:.1f} / {down:.1f} MiB (target 64 MiB)")
        streams = []
        for _ in range(CONNECTIONS):
            stream = socket.create_connection(("127.0.0.1", port))
            stream.sendall(b"GET /public/x HTTP/1.1\r\nHost: gate\r\n\r\n")
            streams.append(stream)
            assert stream.recv(4096).startswith(b"HTTP/1.1 200")
        print(f"{CONNECTIONS} idle keep-alive connections          {memory(process, 'VmRSS'):.1f} MiB (target 200 MiB)")
        for stream in streams:
            stream.close()
        process.terminate()
        process.wait()
    issuer.terminate()
    issuer.wait()
    wire.main(BINARY)
    print(f"size of {os.path.relpath(BINARY)}   {os.path.getsize(BINARY) / (1 << 20):.1f} MiB (target for dist 15 MiB)")


def answer(port, request):
    with socket.create_connection(("127.0.0.1", port)) as stream:
        stream.sendall(request)
        return stream.recv(4096)


def wait(condition, step=0.02):
    end = time.monotonic() + 20
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            sys.exit("it did not start")
        time.sleep(step)


if __name__ == "__main__":
    main()
