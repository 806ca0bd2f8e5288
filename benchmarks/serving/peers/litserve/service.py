"""LitServe as its guide has it; with BENCH_BATCH=1 with batches of up to 64 requests, waiting 5 ms for them."""

from __future__ import annotations

import os

import litserve
import numpy
from model import array, load


class Api(litserve.LitAPI):
    """One endpoint."""

    def setup(self, device):
        """Load the model."""
        self.model = load()

    def decode_request(self, request):
        """Rows as an array."""
        return array(request["rows"])

    def predict(self, x):
        """The model's answer."""
        return self.model(x)

    def encode_response(self, output):
        """The answer as JSON."""
        return {"answer": output.tolist()}


class Batched(Api):
    """Requests of any number of rows, joined along the first axis."""

    def batch(self, inputs):
        """One array, and how to take it apart again."""
        self.ends = numpy.cumsum([len(rows) for rows in inputs])[:-1]
        return numpy.concatenate(inputs)

    def unbatch(self, output):
        """One answer a request."""
        return numpy.split(output, self.ends)


if __name__ == "__main__":
    batched = os.environ.get("BENCH_BATCH") == "1"
    api = Batched(max_batch_size=64, batch_timeout=0.005) if batched else Api()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="warning")
