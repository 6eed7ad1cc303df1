"""grpcio's own client at the gate: each case by name, and what came of it as one JSON line."""

import json
import sys
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

TARGET, TOKEN, CERTIFICATE = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""


def channel():
    # A retry of the client's own would hide what the gate answers.
    options = (("grpc.enable_retries", 0), ("grpc.ssl_target_name_override", "localhost"))
    if not CERTIFICATE:
        return grpc.insecure_channel(TARGET, options)
    with open(CERTIFICATE, "rb") as file:
        return grpc.secure_channel(TARGET, grpc.ssl_channel_credentials(file.read()), options)


CHANNEL = channel()
BEARER = (("authorization", f"Bearer {TOKEN}"),)


def reflect():
    """What the service says of itself, as grpcurl asks: the services, and the file that describes ours."""
    stub = reflection_pb2_grpc.ServerReflectionStub(CHANNEL)
    asked = [reflection_pb2.ServerReflectionRequest(list_services=""), reflection_pb2.ServerReflectionRequest(file_containing_symbol="weather.Weather")]
    listed, file = list(stub.ServerReflectionInfo(iter(asked), metadata=BEARER, timeout=10))
    proto = descriptor_pb2.FileDescriptorProto.FromString(file.file_descriptor_response.file_descriptor_proto[0])
    return sorted(service.name for service in listed.list_services_response.service), proto


SERVICES, PROTO = reflect()
POOL = descriptor_pool.DescriptorPool()
POOL.Add(PROTO)
Word = message_factory.GetMessageClass(POOL.FindMessageTypeByName("weather.Word"))


def method(name, up=False, down=False):
    make = {(False, False): CHANNEL.unary_unary, (False, True): CHANNEL.unary_stream, (True, False): CHANNEL.stream_unary, (True, True): CHANNEL.stream_stream}
    return make[(up, down)](f"/weather.Weather/{name}", request_serializer=Word.SerializeToString, response_deserializer=Word.FromString)


def status(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


def unary():
    answer, call = method("Unary").with_call(Word(text="rain", number=41), metadata=BEARER + (("x-bytes-bin", b"\x01\x02"),), timeout=10)
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    return [answer.text, answer.number, initial.get("x-header"), trailing.get("x-trailer"), trailing.get("x-bytes-bin", b"").hex()]


def large():
    text = "x" * (3 << 20)
    answer = method("Unary")(Word(text=text, number=1), metadata=BEARER, timeout=20)
    return [len(answer.text), answer.number]


def down():
    return [word.number for word in method("Down", down=True)(Word(text="x", number=1000), metadata=BEARER, timeout=20)] == list(range(1000))


def up():
    return method("Up", up=True)((Word(number=number) for number in range(1000)), metadata=BEARER, timeout=20).number


def both():
    """Each word is answered before the next is said."""
    said, answered = threading.Semaphore(1), []

    def words():
        for number in range(200):
            said.acquire()
            yield Word(text="x", number=number)

    for word in method("Both", True, True)(words(), metadata=BEARER, timeout=20):
        answered.append(word.number)
        said.release()
    return answered == [-number for number in range(200)]


def silent():
    """A client that says nothing for longer than any time-out of a request."""
    def words():
        yield Word(number=1)
        time.sleep(2.5)
        yield Word(number=2)

    return method("Up", up=True)(words(), metadata=BEARER).number


def deadline():
    begun = time.monotonic()
    ended = status(lambda: method("Hang")(Word(), metadata=BEARER, timeout=0.5))
    return [ended[0], time.monotonic() - begun < 5]


def deadline_of_a_stream():
    call = method("Down", down=True)(Word(text="on and on", number=3), metadata=BEARER, timeout=1)
    seen = []
    ended = status(lambda: [seen.append(word.number) for word in call])
    return [seen, ended[0]]


def cancel():
    call = method("Down", down=True)(Word(text="on and on", number=1), metadata=BEARER)
    first = next(call).number
    call.cancel()
    return [first, call.code().name]


def fail():
    return status(lambda: method("Fail")(Word(), metadata=BEARER, timeout=10))


def no_token():
    return status(lambda: method("Unary")(Word(), timeout=10))[0]


def bad_token():
    return status(lambda: method("Unary")(Word(), metadata=(("authorization", "Bearer x.y.z"),), timeout=10))[0]


def no_scope():
    return status(lambda: CHANNEL.unary_unary("/weather.Weather/Secret")(b"", metadata=BEARER, timeout=10))[0]


def no_route():
    return status(lambda: CHANNEL.unary_unary("/other.Other/Unary")(b"", metadata=BEARER, timeout=10))[0]


def too_large():
    return status(lambda: method("Unary")(Word(), metadata=BEARER + (("x-long", "y" * 8000),), timeout=10))[0]


def healthy():
    return health_pb2_grpc.HealthStub(CHANNEL).Check(health_pb2.HealthCheckRequest(service="weather.Weather"), timeout=10).status


def ended():
    """A stream whose token is revoked while it is open; the test does that when it reads `open`."""
    call = method("Down", down=True)(Word(text="on and on", number=2), metadata=BEARER)
    seen = [next(call).number, next(call).number]
    print(json.dumps({"open": "ended"}), flush=True)
    return [seen, status(lambda: list(call))]


def reflected():
    return [SERVICES, [method.name for method in PROTO.service[0].method]]


CASES = {name: case for name, case in list(globals().items()) if callable(case) and case.__module__ == "__main__" and name not in {"channel", "reflect", "method", "status", "Word"}}

for line in sys.stdin:
    name = line.strip()
    try:
        print(json.dumps({"case": name, "result": CASES[name]()}), flush=True)
    except Exception as error:
        print(json.dumps({"case": name, "error": f"{type(error).__name__}: {error}"}), flush=True)
