"""One case a line of RFC 9113 that falls on a server: what is sent, and what may come of it.

A connection error must end in GOAWAY with its code or the end of the connection (§5.4.1); a stream error in RST_STREAM with its code,
or in one of these (§5.4.2: an endpoint may treat any as a connection error). A malformed request may also be answered with 400
(§8.1.1). Whatever comes, nothing malformed reaches the service, and others are served.
"""
import struct, unittest

from peer import *

SETTING = struct.Struct(">HI")


def connection_error(*codes):
    """The library that speaks HTTP/2 says PROTOCOL_ERROR of some errors that have a code of their own (§7): the connection ends all the same."""
    return {"closed", "goaway PROTOCOL_ERROR", *("goaway " + one for one in codes)}


def stream_error(*codes):
    return connection_error(*codes) | {"reset " + one for one in codes}


MALFORMED = stream_error("PROTOCOL_ERROR") | {"status 400"}
SERVED = {"status 200"}


def headers(client, flags, stream=1, payload=None):
    return frame(HEADERS, flags, stream, client.request() if payload is None else payload)


def in_order(*parts):
    return lambda client: client.send(b"".join(part(client) if callable(part) else part for part in parts))


GET = lambda stream=1: lambda client: headers(client, END_STREAM | END_HEADERS, stream)
POST = lambda stream=1, more=(): lambda client: frame(HEADERS, END_HEADERS, stream, client.request("/post", "POST", more))
HELD = lambda stream=1: lambda client: frame(HEADERS, END_HEADERS | END_STREAM, stream, client.request("/held"))


def fields(*listed, flags=END_STREAM | END_HEADERS):
    """A request of exactly these fields."""
    return lambda _: frame(HEADERS, flags, 1, b"".join(literal(name, value) for name, value in listed))


def literal(name, value):
    """A field as RFC 7541 §6.2.2 has it, with any bytes."""
    name, value = (part if isinstance(part, bytes) else part.encode() for part in (name, value))
    return b"\0" + string(name) + string(value)


def string(text):
    return integer(len(text), 7) + text


def integer(number, bits):
    most = (1 << bits) - 1
    if number < most:
        return bytes([number])
    rest, out = number - most, bytearray([most])
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest])


PSEUDO = [(":method", "GET"), (":scheme", "http"), (":authority", "any.example"), (":path", "/malformed")]
WITH = lambda *more: fields(*PSEUDO, *more)
WITHOUT = lambda name: fields(*(one for one in PSEUDO if one[0] != name))
BUT = lambda name, value: fields(*((known, value if known == name else old) for known, old in PSEUDO))


# (section, what, how, what may come of it)
CASES = [
    # 4: frames
    ("4.1", "an unknown kind of frame is ignored", in_order(frame(0x16, 0xFF, 0, b"whatever"), GET()), SERVED),
    ("4.1", "unknown flags are ignored", in_order(frame(PING, 0xFE, 0, bytes(8)), GET()), SERVED),
    ("4.1", "the reserved bit is ignored", in_order(frame(PING, 0, 0x80000000, bytes(8)), GET()), SERVED),
    ("4.2", "DATA larger than SETTINGS_MAX_FRAME_SIZE", in_order(POST(), frame(DATA, END_STREAM, 1, bytes(16_385))), stream_error("FRAME_SIZE_ERROR")),
    ("4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE", lambda client: client.send(headers(client, 5, payload=client.request(more=[("x", "y" * 17_000)]))), connection_error("FRAME_SIZE_ERROR")),
    ("4.3", "a field block that cannot be decoded", in_order(frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")), connection_error("COMPRESSION_ERROR")),
    ("4.3", "an index of no field", in_order(frame(HEADERS, 5, 1, b"\xfe")), connection_error("COMPRESSION_ERROR")),
    ("4.3", "the index 0 (RFC 7541 6.1)", in_order(frame(HEADERS, 5, 1, b"\x80")), connection_error("COMPRESSION_ERROR")),
    ("4.3", "a table larger than allowed (RFC 7541 6.3)", in_order(lambda client: frame(HEADERS, 5, 1, b"\x3f" + b"\xe1\xff\x03"[1:] + b"\xff\x7f" + client.request())), connection_error("COMPRESSION_ERROR")),
    ("4.3", "a change of the table behind fields (RFC 7541 4.2)", in_order(lambda client: frame(HEADERS, 5, 1, client.request() + b"\x20")), connection_error("COMPRESSION_ERROR")),
    ("4.3", "padding of a Huffman string longer than seven bits (RFC 7541 5.2)", in_order(lambda client: frame(HEADERS, 5, 1, client.request() + b"\x00\x01x\x82\xff\xff")), connection_error("COMPRESSION_ERROR")),
    ("4.3", "padding of a Huffman string with zeros (RFC 7541 5.2)", in_order(lambda client: frame(HEADERS, 5, 1, client.request() + b"\x00\x01x\x81\x18")), connection_error("COMPRESSION_ERROR")),
    ("4.3", "the end symbol in a Huffman string (RFC 7541 5.2)", in_order(lambda client: frame(HEADERS, 5, 1, client.request() + b"\x00\x01x\x84\xff\xff\xff\xff")), connection_error("COMPRESSION_ERROR")),
    # 5.1: states of a stream
    ("5.1", "DATA on a stream that was never opened", in_order(frame(DATA, END_STREAM, 1, b"x")), connection_error("PROTOCOL_ERROR")),
    ("5.1", "RST_STREAM on a stream that was never opened", in_order(frame(RST_STREAM, 0, 1, bytes(4))), connection_error("PROTOCOL_ERROR")),
    ("5.1", "WINDOW_UPDATE on a stream that was never opened", in_order(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")), connection_error("PROTOCOL_ERROR")),
    ("5.1", "CONTINUATION on a stream that was never opened", in_order(frame(CONTINUATION, END_HEADERS, 1, b"")), connection_error("PROTOCOL_ERROR")),
    ("5.1", "DATA after the client's end of a stream", in_order(HELD(), frame(DATA, END_STREAM, 1, b"x")), stream_error("STREAM_CLOSED")),
    ("5.1", "HEADERS after the client's end of a stream", in_order(HELD(), GET()), stream_error("STREAM_CLOSED", "PROTOCOL_ERROR")),
    ("5.1", "CONTINUATION after the client's end of a stream", in_order(HELD(), frame(CONTINUATION, END_HEADERS, 1, b"")), connection_error("PROTOCOL_ERROR", "STREAM_CLOSED")),
    ("5.1", "HEADERS on a stream that the client has reset", in_order(HELD(), frame(RST_STREAM, 0, 1, b"\0\0\0\x08"), GET()), stream_error("STREAM_CLOSED", "PROTOCOL_ERROR")),
    ("5.1.1", "a stream with an even number", in_order(GET(2)), connection_error("PROTOCOL_ERROR")),
    ("5.1.1", "a stream with a smaller number than one before", in_order(HELD(5), GET(3)), connection_error("PROTOCOL_ERROR", "STREAM_CLOSED") | {"reset STREAM_CLOSED"}, 3),
    ("5.1.2", "more streams than SETTINGS_MAX_CONCURRENT_STREAMS", in_order(*(HELD(2 * i + 1) for i in range(STREAMS + 1))), stream_error("REFUSED_STREAM", "PROTOCOL_ERROR"), 2 * STREAMS + 1),
    ("5.3.1 (RFC 7540)", "a stream that depends on itself is no reason to fail others", in_order(frame(PRIORITY, 0, 1, b"\0\0\0\1\x0f"), GET(3)), SERVED | connection_error("PROTOCOL_ERROR"), 3),
    ("5.5", "an unknown frame between HEADERS and CONTINUATION", in_order(lambda client: headers(client, END_STREAM), frame(0x16, 0, 0, b""), frame(CONTINUATION, END_HEADERS, 1)), connection_error("PROTOCOL_ERROR")),
    # 6: kinds of frames
    ("6.1", "DATA on stream 0", in_order(frame(DATA, END_STREAM, 0, b"x")), connection_error("PROTOCOL_ERROR")),
    ("6.1", "DATA with more padding than room", in_order(POST(), frame(DATA, END_STREAM | PADDED, 1, b"\x06abc")), connection_error("PROTOCOL_ERROR")),
    ("6.1", "DATA with padding", in_order(POST(), frame(DATA, END_STREAM | PADDED, 1, b"\x02abc\0\0")), SERVED),
    ("6.2", "HEADERS on stream 0", in_order(GET(0)), connection_error("PROTOCOL_ERROR")),
    ("6.2", "HEADERS with more padding than room", in_order(lambda client: frame(HEADERS, 5 | PADDED, 1, b"\xff" + client.request())), connection_error("PROTOCOL_ERROR")),
    ("6.2", "HEADERS with padding and a priority", in_order(lambda client: frame(HEADERS, 5 | PADDED | WITH_PRIORITY, 1, b"\x02" + b"\0\0\0\0\x10" + client.request() + b"\0\0")), SERVED),
    ("6.2", "HEADERS of one stream before CONTINUATION of another", in_order(lambda client: headers(client, END_STREAM), lambda client: headers(client, 5, 3)), connection_error("PROTOCOL_ERROR")),
    ("6.3", "PRIORITY on stream 0", in_order(frame(PRIORITY, 0, 0, b"\0\0\0\1\x0f")), connection_error("PROTOCOL_ERROR")),
    ("6.3", "PRIORITY of another length", in_order(HELD(), frame(PRIORITY, 0, 1, b"\0\0\0\0")), stream_error("FRAME_SIZE_ERROR")),
    ("6.4", "RST_STREAM on stream 0", in_order(frame(RST_STREAM, 0, 0, bytes(4))), connection_error("PROTOCOL_ERROR")),
    ("6.4", "RST_STREAM of another length", in_order(HELD(), frame(RST_STREAM, 0, 1, bytes(3))), connection_error("FRAME_SIZE_ERROR")),
    ("6.5", "SETTINGS with ACK and a payload", in_order(frame(SETTINGS, ACK, 0, SETTING.pack(3, 1))), connection_error("FRAME_SIZE_ERROR")),
    ("6.5", "SETTINGS on a stream", in_order(frame(SETTINGS, 0, 1, SETTING.pack(3, 1))), connection_error("PROTOCOL_ERROR")),
    ("6.5", "SETTINGS of a broken length", in_order(frame(SETTINGS, 0, 0, bytes(5))), connection_error("FRAME_SIZE_ERROR")),
    ("6.5.2", "ENABLE_PUSH of 2", in_order(frame(SETTINGS, 0, 0, SETTING.pack(2, 2))), connection_error("PROTOCOL_ERROR")),
    ("6.5.2", "INITIAL_WINDOW_SIZE above its maximum", in_order(frame(SETTINGS, 0, 0, SETTING.pack(4, 1 << 31))), connection_error("FLOW_CONTROL_ERROR")),
    ("6.5.2", "MAX_FRAME_SIZE below its minimum", in_order(frame(SETTINGS, 0, 0, SETTING.pack(5, 16_383))), connection_error("PROTOCOL_ERROR")),
    ("6.5.2", "MAX_FRAME_SIZE above its maximum", in_order(frame(SETTINGS, 0, 0, SETTING.pack(5, 1 << 24))), connection_error("PROTOCOL_ERROR")),
    ("6.5.2", "an unknown setting is ignored", in_order(frame(SETTINGS, 0, 0, SETTING.pack(0xFFFF, 7)), GET()), SERVED),
    ("6.6", "PUSH_PROMISE from a client", in_order(GET(), lambda client: frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + client.request())), connection_error("PROTOCOL_ERROR")),
    ("6.7", "PING on a stream", in_order(frame(PING, 0, 1, bytes(8))), connection_error("PROTOCOL_ERROR")),
    ("6.7", "PING of another length", in_order(frame(PING, 0, 0, bytes(6))), connection_error("FRAME_SIZE_ERROR")),
    ("6.8", "GOAWAY on a stream", in_order(frame(GOAWAY, 0, 1, bytes(8))), connection_error("PROTOCOL_ERROR")),
    ("6.9", "WINDOW_UPDATE of 0 for the connection", in_order(frame(WINDOW_UPDATE, 0, 0, bytes(4))), connection_error("PROTOCOL_ERROR")),
    ("6.9", "WINDOW_UPDATE of 0 for a stream", in_order(HELD(), frame(WINDOW_UPDATE, 0, 1, bytes(4))), stream_error("PROTOCOL_ERROR")),
    ("6.9", "WINDOW_UPDATE of another length", in_order(frame(WINDOW_UPDATE, 0, 0, bytes(3))), connection_error("FRAME_SIZE_ERROR")),
    ("6.9.1", "a window of the connection above its maximum", in_order(frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")), connection_error("FLOW_CONTROL_ERROR")),
    ("6.9.1", "a window of a stream above its maximum", in_order(HELD(), frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff")), stream_error("FLOW_CONTROL_ERROR")),
    ("6.9.2", "settings that push a stream's window above its maximum", in_order(HELD(), frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\x00\x00"), frame(SETTINGS, 0, 0, SETTING.pack(4, 0x7FFFFFFF))), connection_error("FLOW_CONTROL_ERROR")),
    ("6.10", "CONTINUATION after the end of a field block", in_order(HELD(), frame(CONTINUATION, END_HEADERS, 1, b"")), connection_error("PROTOCOL_ERROR")),
    ("6.10", "CONTINUATION on stream 0", in_order(lambda client: headers(client, END_STREAM), frame(CONTINUATION, END_HEADERS, 0, b"")), connection_error("PROTOCOL_ERROR")),
    ("6.10", "CONTINUATION after DATA", in_order(POST(), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, b"")), connection_error("PROTOCOL_ERROR")),
    ("6.10", "a field block in many pieces", lambda client: (lambda block: client.send(frame(HEADERS, END_STREAM, 1, block[:1]) + b"".join(frame(CONTINUATION, 0, 1, block[i:i + 9]) for i in (1, 10)) + frame(CONTINUATION, END_HEADERS, 1, block[19:])))(client.request("/pieces")), SERVED),
    # 8: requests
    ("8.1", "trailers that do not end the stream", in_order(POST(), frame(DATA, 0, 1, b"x"), lambda client: frame(HEADERS, END_HEADERS, 1, client.block([("x-trailer", "1")]))), MALFORMED),
    # The library takes it out of them and goes on, where §8.1 wants an error.
    ("8.1", "a pseudo-header in trailers", in_order(POST(), frame(DATA, 0, 1, b"x"), lambda client: frame(HEADERS, 5, 1, literal(":path", "/other"))), MALFORMED | SERVED),
    ("8.1", "trailers", in_order(POST(), frame(DATA, 0, 1, b"x"), lambda client: frame(HEADERS, 5, 1, client.block([("x-trailer", "1")]))), SERVED),
    ("8.1.1", "a body shorter than content-length", in_order(POST(more=[("content-length", "5")]), frame(DATA, END_STREAM, 1, b"abc")), MALFORMED),
    ("8.1.1", "a body longer than content-length", in_order(POST(more=[("content-length", "2")]), frame(DATA, END_STREAM, 1, b"abc")), MALFORMED),
    ("8.1.1", "a body longer than content-length, in two frames", in_order(POST(more=[("content-length", "3")]), frame(DATA, 0, 1, b"abc"), frame(DATA, END_STREAM, 1, b"d")), MALFORMED),
    ("8.1.1", "a body where content-length says none", in_order(POST(more=[("content-length", "0")]), frame(DATA, END_STREAM, 1, b"x")), MALFORMED),
    ("8.1.1", "a content-length that is no number", WITH(("content-length", "x")), MALFORMED),
    ("8.1.1", "two different content-lengths", WITH(("content-length", "0"), ("content-length", "1")), MALFORMED),
    ("8.2", "a name with a capital", WITH(("X-Capital", "1")), MALFORMED),
    ("8.2.1", "a name with a space", WITH(("x name", "1")), MALFORMED),
    ("8.2.1", "a name with a colon", WITH(("x:name", "1")), MALFORMED),
    ("8.2.1", "an empty name", WITH(("", "1")), MALFORMED),
    ("8.2.1", "a name with a byte above 0x7e", WITH((b"x\x80", "1")), MALFORMED),
    ("8.2.1", "a value with a line feed", WITH(("x-value", "a\nb")), MALFORMED),
    ("8.2.1", "a value with a carriage return", WITH(("x-value", "a\rb")), MALFORMED),
    ("8.2.1", "a value with NUL", WITH(("x-value", "a\0b")), MALFORMED),
    ("8.2.2", "connection", WITH(("connection", "keep-alive")), MALFORMED),
    ("8.2.2", "proxy-connection", WITH(("proxy-connection", "keep-alive")), MALFORMED),
    ("8.2.2", "keep-alive", WITH(("keep-alive", "timeout=5")), MALFORMED),
    ("8.2.2", "transfer-encoding", WITH(("transfer-encoding", "chunked")), MALFORMED),
    ("8.2.2", "upgrade", WITH(("upgrade", "h2c")), MALFORMED),
    ("8.2.2", "te other than trailers", WITH(("te", "gzip")), MALFORMED),
    ("8.2.2", "te: trailers", WITH(("te", "trailers")), SERVED),
    ("8.3", "an unknown pseudo-header", WITH((":unknown", "1")), MALFORMED),
    ("8.3", "a pseudo-header of answers", WITH((":status", "200")), MALFORMED),
    ("8.3", "a pseudo-header after a field", fields(*PSEUDO[:3], ("x-field", "1"), PSEUDO[3]), MALFORMED),
    ("8.3", ":method twice", WITH((":method", "GET")), MALFORMED),
    ("8.3", ":path twice", WITH((":path", "/other")), MALFORMED),
    ("8.3", ":authority twice", WITH((":authority", "any.example")), MALFORMED),
    ("8.3.1", "no :method", WITHOUT(":method"), MALFORMED),
    ("8.3.1", "no :scheme", WITHOUT(":scheme"), MALFORMED),
    ("8.3.1", "no :path", WITHOUT(":path"), MALFORMED),
    ("8.3.1", "an empty :path", BUT(":path", ""), MALFORMED),
    ("8.3.1", "a :path that does not begin with a slash", BUT(":path", "malformed"), MALFORMED),
    ("8.3.1", "a user in :authority", BUT(":authority", "alice@any.example"), MALFORMED),
    ("8.3.1", "a host that differs from :authority", WITH(("host", "other.example")), MALFORMED),
    ("8.3.1", "neither :authority nor host", WITHOUT(":authority"), MALFORMED),
    ("8.3.1", "an empty :method", BUT(":method", ""), MALFORMED),
    ("8.5", "CONNECT", fields((":method", "CONNECT"), (":authority", "any.example:443")), stream_error("PROTOCOL_ERROR", "CONNECT_ERROR", "REFUSED_STREAM") | {"status 405", "status 501", "status 400"}),
    ("8.5", "CONNECT with a path", BUT(":method", "CONNECT"), MALFORMED | {"status 405"}),
]


class Cases(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = Service()
        cls.gate = Gate(cls.service)

    @classmethod
    def tearDownClass(cls):
        cls.gate.stop()

    def others_are_served(self):
        client = Client(self.gate)
        client.ask(1, "/others")
        self.assertEqual(client.outcome(), "status 200")
        client.close()

    def test_each_case(self):
        for section, what, send, allowed, *stream in CASES:
            with self.subTest(section=section, what=what):
                before, client = len(self.service.lines), Client(self.gate)
                # After the first exchange of settings.
                client.wait_for(lambda kind, flags, *_: kind == SETTINGS and flags & ACK)
                if (frames := send(client)):
                    client.send(frames)
                found = client.outcome(*stream)
                self.assertIn(found, allowed)
                self.others_are_served()
                malformed = [line for line in self.service.lines[before:] if "/malformed" in line or "/other " in line]
                if allowed is not SERVED:
                    self.assertEqual(malformed, [], "it reached the service")
                if (found.startswith("reset") or found.startswith("status")) and found != "reset REFUSED_STREAM":
                    # A stream error is nobody else's.
                    client.ask(99, "/next")
                    self.assertEqual(client.outcome(99), "status 200", f"after {found}")
                client.close()

    def test_an_invalid_preface_is_no_http2(self):
        """RFC 9113 3.4."""
        client = Client(self.gate, preface=None)
        client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
        self.assertIn(client.outcome(), {"closed", "goaway PROTOCOL_ERROR"})

    def test_a_first_frame_that_is_no_settings_does_no_harm(self):
        """RFC 9113 3.4. The library bears it when another comes first: then the settings count that every client begins with."""
        client = Client(self.gate, preface=None)
        client.send(PREFACE + frame(PING, 0, 0, bytes(8)))
        client.ask(1)
        self.assertIn(client.outcome(), {"closed", "goaway PROTOCOL_ERROR", "status 200"})

    def test_settings_and_pings_are_acknowledged(self):
        """RFC 9113 6.5.3 and 6.7."""
        client = Client(self.gate)
        self.assertTrue(client.wait_for(lambda kind, flags, *_: kind == SETTINGS and flags & ACK))
        client.send(frame(PING, 0, 0, b"12345678"))
        self.assertEqual(client.wait_for(lambda kind, *_: kind == PING)[1:], (ACK, 0, b"12345678"))
        client.send(frame(PING, ACK, 0, b"unasked."))
        client.ask(1)
        self.assertEqual(client.outcome(), "status 200")
        self.assertEqual(sum(kind == PING for kind, *_ in client.seen), 1)

    def test_a_stream_gets_no_more_than_its_window(self):
        """RFC 9113 6.9.1 and 6.9.2: also when settings shrink it, and below zero."""
        client = Client(self.gate, SETTING.pack(4, 10))
        client.ask(1)
        got = client.wait_for(lambda kind, *_: kind == DATA)
        self.assertEqual(len(got[3]), 10)
        # -20, and then just 1 again.
        client.send(frame(SETTINGS, 0, 0, SETTING.pack(4, 0)) + frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 11)))
        got = client.wait_for(lambda kind, *_: kind == DATA)
        self.assertEqual(len(got[3]), 1)
        client.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1000)))
        rest = 0
        while rest < 89:
            rest += len(client.wait_for(lambda kind, *_: kind == DATA)[3])
        self.assertEqual(rest, 89)

    def test_a_client_that_sends_more_than_its_window_is_stopped(self):
        """RFC 9113 6.9.1."""
        client = Client(self.gate)
        client.send(POST()(client))
        for _ in range(200):
            client.send(frame(DATA, 0, 1, bytes(16_384)))
        self.assertIn(client.outcome(), stream_error("FLOW_CONTROL_ERROR") | {"silence"})
        self.others_are_served()

    def test_the_gates_frames_keep_to_the_clients_frame_size_and_no_push_comes(self):
        """RFC 9113 4.2 and 8.4."""
        client = Client(self.gate)
        client.ask(1)
        client.wait_for(lambda kind, flags, stream, payload: kind == DATA and flags & END_STREAM)
        self.assertTrue(all(len(payload) <= 16_384 for *_, payload in client.seen))
        self.assertFalse(any(kind == PUSH_PROMISE for kind, *_ in client.seen))

    def test_after_goaway_of_the_client_its_streams_are_finished(self):
        """RFC 9113 6.8."""
        client = Client(self.gate)
        client.ask(1)
        client.send(frame(GOAWAY, 0, 0, bytes(8)))
        self.assertEqual(client.outcome(), "status 200")


if __name__ == "__main__":
    unittest.main(verbosity=2)
