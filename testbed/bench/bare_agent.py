"""The least process that could be an agent: serves gRPC and has run an ONNX session once.

The limit beside which `testbed.bench.agent_start` puts the real one. Run as
`python -m testbed.bench.bare_agent HOST:PORT MODEL.onnx`; ends on SIGTERM.
"""

import asyncio
import sys

import grpc.aio
import numpy as np
import onnxruntime
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


async def serve(address: str, model: str) -> None:
    """Run the model once, then serve health at `address` for ever."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((1, 4), dtype=np.float32)})
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
