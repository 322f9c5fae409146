"""MLServer's side: a runtime that takes the network's own input, runs the session, and does nothing else.

Runs in MLServer's environment, from a folder that also holds model.onnx; imports nothing of glucast.
"""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class Network(MLModel):
    """x: (batch, context_length, channels), normalised → y: (batch, prediction_length, 1 + quantiles), normalised"""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # as every network of the service has
        self._session = onnxruntime.InferenceSession(await get_model_uri(self.settings), options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (y,) = self._session.run(["y"], {"x": NumpyCodec.decode_input(payload.inputs[0])})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
