"""Hosts and cables: network namespaces with a TUN device at each end of a cable that this program carries packets over.

A cable can lose packets, delay them, or be cut: then nothing passes and nobody is told, as when a firewall forgets a
connection or a machine loses its power.
"""
import ctypes, fcntl, heapq, os, random, select, socket, struct, subprocess, threading, time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET_BYTES_MAX = 65_536
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Host:
    """A network namespace. Sockets are made inside it and used from anywhere."""

    def __init__(self, name):
        self.name = f"wicketgate-{name}-{os.getpid()}"
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    def inside(self, work):
        """Runs a function on a thread of its own that lives in this host's network."""
        outcome = []

        def enter():
            try:
                handle = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
                if LIBC.setns(handle, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(handle)
                outcome.append((work(), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        value, error = outcome[0]
        if error:
            raise error
        return value

    def connect(self, address, timeout=20):
        return self.inside(lambda: socket.create_connection(address, timeout))

    def listen(self, address):
        return self.inside(lambda: socket.create_server(address, backlog=1024))

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.name])


class Cable:
    """Between two hosts, `addresses` at its ends."""

    count = 0

    def __init__(self, hosts, addresses):
        self.dice = random.Random(7)
        self.loss, self.delay, self.cut_off = 0.0, 0.0, False
        self.passed = self.lost = 0
        self.ends = []
        for host, own, other in ((hosts[0], *addresses), (hosts[1], *reversed(addresses))):
            Cable.count += 1
            device = f"wg{os.getpid() % 100_000}-{Cable.count}"
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
            ip("link", "set", device, "netns", host.name)
            ip("-n", host.name, "addr", "add", own, "peer", other, "dev", device)
            ip("-n", host.name, "link", "set", device, "up")
            self.ends.append(end)
        self.waiting = []
        threading.Thread(target=self.carry, daemon=True).start()

    def carry(self):
        number = 0
        while True:
            wait = max(0, self.waiting[0][0] - time.monotonic()) if self.waiting else 0.2
            for end in select.select(self.ends, [], [], wait)[0]:
                while True:
                    try:
                        packet = os.read(end, PACKET_BYTES_MAX)
                    except BlockingIOError:
                        break
                    except OSError:
                        return
                    if self.cut_off or self.dice.random() < self.loss:
                        self.lost += 1
                        continue
                    number += 1
                    other = self.ends[1 - self.ends.index(end)]
                    heapq.heappush(self.waiting, (time.monotonic() + self.delay, number, other, packet))
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self.waiting)
                if self.cut_off:
                    self.lost += 1
                    continue
                try:
                    os.write(end, packet)
                    self.passed += 1
                except OSError:
                    self.lost += 1

    def cut(self):
        self.cut_off = True

    def mend(self):
        self.loss, self.delay, self.cut_off = 0.0, 0.0, False
