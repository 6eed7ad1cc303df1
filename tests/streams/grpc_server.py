"""A gRPC service of grpcio with health and reflection: what the gate's own tests cannot invent. Prints its port, then what it sees."""

import json
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


def messages():
    """The service's messages, without a compiler: one text and one number."""
    file = descriptor_pb2.FileDescriptorProto(name="weather.proto", package="weather", syntax="proto3")
    message = file.message_type.add(name="Word")
    message.field.add(name="text", number=1, type=9, label=1)
    message.field.add(name="number", number=2, type=5, label=1)
    service = file.service.add(name="Weather")
    kinds = {"Unary": (False, False), "Down": (False, True), "Up": (True, False), "Both": (True, True), "Hang": (False, False), "Fail": (False, False)}
    for name, (up, down) in kinds.items():
        service.method.add(name=name, input_type=".weather.Word", output_type=".weather.Word", client_streaming=up, server_streaming=down)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("weather.Word")), kinds


Word, KINDS = messages()


def tell(**fact):
    print(json.dumps(fact), flush=True)


class Weather:
    def told(self, method, context):
        metadata = {key: value if isinstance(value, str) else value.hex() for key, value in context.invocation_metadata()}
        context.add_callback(lambda: tell(over=method, cancelled=context.code() is None and not context.is_active()))
        tell(call=method, metadata=metadata, left=context.time_remaining())
        context.set_trailing_metadata((("x-trailer", "kept"), ("x-bytes-bin", b"\x00\xff")))

    def Unary(self, word, context):
        self.told("Unary", context)
        context.send_initial_metadata((("x-header", "kept"),))
        return Word(text=word.text.upper(), number=word.number + 1)

    def Down(self, word, context):
        self.told("Down", context)
        for number in range(word.number):
            yield Word(text=word.text, number=number)
        if word.text == "on and on":
            # Silent until the client leaves or is made to.
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(60)

    def Up(self, words, context):
        self.told("Up", context)
        total = 0
        for word in words:
            tell(heard=word.number)
            total += word.number
        return Word(text="sum", number=total)

    def Both(self, words, context):
        self.told("Both", context)
        for word in words:
            yield Word(text=word.text, number=-word.number)

    def Hang(self, word, context):
        self.told("Hang", context)
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(60)
        return Word()

    def Fail(self, word, context):
        self.told("Fail", context)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no forecast: 50 % caf\u00e9")


def handlers(weather):
    make = {(False, False): grpc.unary_unary_rpc_method_handler, (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler, (True, True): grpc.stream_stream_rpc_method_handler}
    methods = {name: make[kind](getattr(weather, name), request_deserializer=Word.FromString, response_serializer=Word.SerializeToString)
               for name, kind in KINDS.items()}
    return grpc.method_handlers_generic_handler("weather.Weather", methods)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((handlers(Weather()),))
    healthy = health.HealthServicer()
    healthy.set("weather.Weather", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection(("weather.Weather", health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"
    if len(sys.argv) > 3:
        with open(sys.argv[2], "rb") as chain, open(sys.argv[3], "rb") as key:
            port = server.add_secure_port(address, grpc.ssl_server_credentials(((key.read(), chain.read()),)))
    else:
        port = server.add_insecure_port(address)
    server.start()
    tell(port=port)
    # It ends with its parent, who holds the other end.
    sys.stdin.read()
    server.stop(None)
    time.sleep(0.1)


main()
